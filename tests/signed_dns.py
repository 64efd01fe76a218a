"""A DNSSEC-signed DNS on loopback: zones signed by dnspython, served by Knot DNS, validated by Unbound."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dns.dnssec
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

needed = pytest.mark.skipif(
    not (shutil.which("knotd") and shutil.which("unbound")), reason="knot and unbound are not installed"
)

_KNOT = """\
server:
  rundir: {root}
  listen: 127.0.0.1@{port}
database:
  storage: {root}
log:
  - target: stderr
    any: warning
zone:
"""
_UNBOUND = """\
server:
  interface: 127.0.0.1
  port: {port}
  do-daemonize: no
  do-ip6: no
  use-syslog: no
  username: ""
  chroot: ""
  directory: {root}
  pidfile: {root}/unbound.pid
  module-config: "validator iterator"
  do-not-query-localhost: no
  local-zone: "test." nodefault
  access-control: 127.0.0.0/8 allow
  prefetch: no
  num-threads: 1
remote-control:
  control-enable: no
"""

Change = Callable[[dns.zone.Zone], None]


class SignedDNS:
    """`add` the zones, then `start`; `port` is the validating resolver's, on 127.0.0.1."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self._root = root
        self._knot_port, self.port = _free_port(), _free_port()
        self._knot = _KNOT.format(root=root, port=self._knot_port)
        self._unbound = _UNBOUND.format(root=root, port=self.port)
        self._stubs = ""
        self._processes: list[subprocess.Popen[bytes]] = []

    def add(self, name: str, text: str, *, signed: bool, spoil: Change = lambda zone: None) -> None:
        """`spoil` is done to the zone when it has been signed: what an attacker would do to it."""
        zone = dns.zone.from_text(text, origin=name, relativize=False)
        if signed:
            private = ec.generate_private_key(ec.SECP256R1())
            key = dns.dnssec.make_dnskey(private.public_key(), dns.dnssec.Algorithm.ECDSAP256SHA256, flags=257)
            now = datetime.now(UTC)
            with zone.writer() as transaction:
                dns.dnssec.sign_zone(
                    zone, transaction, keys=[(private, key)], add_dnskey=True, dnskey_ttl=60,
                    inception=now - timedelta(hours=1), expiration=now + timedelta(days=1),
                )  # fmt: skip
            self._unbound = self._unbound.replace(
                "remote-control:", f'  trust-anchor: "{name}. DNSKEY {key.to_text()}"\nremote-control:'
            )
        spoil(zone)
        (self._root / name).write_text(zone.to_text(relativize=False))
        self._knot += f"  - domain: {name}\n    storage: {self._root}\n    file: {name}\n"
        self._stubs += f"stub-zone:\n  name: {name}\n  stub-addr: 127.0.0.1@{self._knot_port}\n"

    def start(self) -> None:
        """Returns when both answer."""
        (self._root / "knot.conf").write_text(self._knot)
        (self._root / "unbound.conf").write_text(self._unbound + self._stubs)
        for name, command in (("knot", ["knotd", "-c"]), ("unbound", ["unbound", "-d", "-c"])):
            with (self._root / f"{name}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen([*command, self._root / f"{name}.conf"], stdout=log, stderr=log)
                )
        deadline = time.monotonic() + 20
        for port in (self._knot_port, self.port):
            while not _answers(port):
                assert time.monotonic() < deadline, [path.read_text() for path in self._root.glob("*.log")]
                time.sleep(0.05)

    def ask(self, name: str, kind: str) -> Any:
        """The validating resolver's answer."""
        query = dns.message.make_query(name, kind, want_dnssec=True)
        query.flags |= dns.flags.AD
        return dns.query.udp(query, "127.0.0.1", port=self.port, timeout=10)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        dns.query.udp(dns.message.make_query("version.bind", "TXT", "CH"), "127.0.0.1", port=port, timeout=0.5)
    except Exception:
        return False
    return True

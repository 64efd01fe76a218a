"""Prosody from Debian: one domain, local users, TLS from the first octet, its archive (XEP-0313) on or off."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from demo.world import PASSWORD
from gatewayd.crypto.certificates import issue, make_authority

ADDRESS = ("127.0.0.33", 5223)
DOMAIN = "bench.test"
ARCHIVES = {"none": "no archive", "internal": "file archive", "sql": "SQLite archive"}  # Prosody's name -> ours

CONFIG = """\
daemonize = false
run_as_root = true
pidfile = "{root}/prosody.pid"
data_path = "{root}/data"
log = {{ warn = "{root}/prosody.log" }}
interfaces = {{ "{host}" }}
c2s_ports = {{}}
c2s_direct_tls_ports = {{ {port} }}
s2s_ports = {{}}
ssl = {{ certificate = "{root}/certificate.pem", key = "{root}/key.pem" }}
authentication = "internal_plain"
storage = {{ archive = "{archive}" }}
sql = {{ driver = "SQLite3", database = "archive.sqlite" }}
archive_expires_after = "never"
default_archive_policy = true
modules_enabled = {{ "roster", "saslauth", "posix"{mam} }}
modules_disabled = {{ "s2s", "offline" }}
VirtualHost "{domain}"
"""


class Prosody(NamedTuple):
    authorities: Path
    pid: int


def missing() -> str:
    return "" if shutil.which("prosody") else "prosody"


@contextmanager
def prosody(root: Path, archive: str, users: Sequence[str]) -> Iterator[Prosody]:
    """Users in Prosody's own files: a registration of thousands would take longer than the measurement."""
    accounts = root / "data" / DOMAIN.replace(".", "%2e") / "accounts"
    accounts.mkdir(parents=True)
    for user in users:
        (accounts / f"{user}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}"; }};\n')
    authority_key, authority = make_authority("bench")
    key, certificate = issue(authority_key, authority, [DOMAIN], [])
    for name, octets in (("ca.pem", authority), ("key.pem", key), ("certificate.pem", certificate)):
        (root / name).write_bytes(octets)
    mam = "" if archive == "none" else ', "mam"'
    config = root / "prosody.cfg.lua"
    host, port = ADDRESS
    config.write_text(CONFIG.format(root=root, host=host, port=port, domain=DOMAIN, archive=archive, mam=mam))
    with (root / "prosody.err").open("w") as said:
        process = subprocess.Popen(["prosody", "--config", config], stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 15
        while not listens(host, port):
            if process.poll() is not None or time.monotonic() > deadline:
                said_ = (root / "prosody.err").read_text() + (root / "prosody.log").read_text()
                raise RuntimeError(f"Prosody did not start:\n{said_[-2000:]}")
            time.sleep(0.1)
        yield Prosody(root / "ca.pem", process.pid)
    finally:
        process.terminate()
        process.wait(20)


def listens(host: str, port: int) -> bool:
    import socket

    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False

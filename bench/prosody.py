"""Prosody from Debian: one domain, local users, TLS from the first octet, its archive (XEP-0313) on or off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.servers import Server, server
from demo.world import PASSWORD

ADDRESS = ("127.0.0.33", 5223)
DOMAIN = "bench.test"
ARCHIVES = {"none": "no archive", "internal": "file archive", "sql": "SQLite archive"}  # Prosody's name -> ours

CONFIG = """\
daemonize = false
run_as_root = true
pidfile = "{root}/prosody.pid"
data_path = "{root}/data"
log = {{ warn = "*console" }}
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


def missing() -> str:
    return "" if shutil.which("prosody") else "prosody"


@contextmanager
def prosody(root: Path, archive: str, users: Sequence[str]) -> Iterator[Server]:
    """Users in Prosody's own files: a registration of thousands would take longer than the measurement."""
    accounts = root / "data" / DOMAIN.replace(".", "%2e") / "accounts"
    accounts.mkdir(parents=True)
    for user in users:
        (accounts / f"{user}.dat").write_text(f'return {{ ["password"] = "{PASSWORD}"; }};\n')
    mam = "" if archive == "none" else ', "mam"'
    config = root / "prosody.cfg.lua"
    host, port = ADDRESS
    config.write_text(CONFIG.format(root=root, host=host, port=port, domain=DOMAIN, archive=archive, mam=mam))
    with server(root, "xmpp", ADDRESS, DOMAIN, ["prosody", "--config", str(config)]) as made:
        yield made

"""Who is measured: our gateway, and Postfix with Dovecot behind it by LMTP; each in processes of its own."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from demo.legacy import PORT, PostfixInstance
from demo.world import PASSWORD, Gateway
from gatewayd.crypto.certificates import issue, make_authority

OURS, PEER = "127.0.0.31", "127.0.0.32"


class Target(NamedTuple):
    smtp: tuple[str, int]
    imaps: tuple[str, int]
    ssl: ssl.SSLContext
    user: str
    masters: Callable[[], list[int]]  # the processes that began all others of it
    password: str = PASSWORD

    def cpu(self) -> float:
        """Seconds of processor that it has used, those of processes that have ended included."""
        return _cpu(self.masters())


def _cpu(masters: Iterable[int]) -> float:
    below: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        below.setdefault(int(fields[1]), []).append(pid)
        used[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # its own, and that of children waited for
    waiting, total = list(masters), 0.0
    while waiting:
        pid = waiting.pop()
        total += used.get(pid, 0.0)
        waiting += below.get(pid, [])
    return total


def missing() -> str:
    """What the peer lacks on this machine, "" for nothing."""
    return ", ".join(name for name in ("postfix", "dovecot", "doveadm") if shutil.which(name) is None)


@contextmanager
def gateway(root: Path) -> Iterator[Target]:
    made = Gateway(root, "bench.test", OURS, ["alice"], 9)
    try:
        made.start()
        yield Target(made.port("smtp"), made.port("imaps"), made.ssl, "alice@bench.test", lambda: [made.pid])
    finally:
        made.stop()


MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
mail_owner = postfix
myhostname = mx.bench.test
mydestination =
mynetworks = {address}/32
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtp_bind_address = {address}
smtpd_client_connection_count_limit = 0
maillog_file = {root}/postfix.log
maillog_file_prefixes = {root}
"""
DELIVERING = """\
virtual_mailbox_domains = bench.test
virtual_mailbox_maps = static:yes
virtual_transport = lmtp:unix:{root}/dovecot/lmtp
"""

DOVECOT_CONF = """\
protocols = imap lmtp
listen = {address}
base_dir = {root}/dovecot
log_path = {root}/dovecot.log
mail_location = maildir:{root}/mail/%u
first_valid_uid = 1
ssl = yes
ssl_cert = <{root}/certificate.pem
ssl_key = <{root}/key.pem
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={root}/mail/%u
}}
service imap-login {{
  inet_listener imap {{
    port = 0
  }}
  inet_listener imaps {{
    port = 2993
    ssl = yes
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
"""


@contextmanager
def postfix_dovecot(root: Path) -> Iterator[Target]:
    postfix = PostfixInstance(root, PEER, MAIN_CF + DELIVERING)
    authority_key, authority = make_authority("bench")
    key, certificate = issue(authority_key, authority, [PEER], ["bench.test"])
    for name, octets in (("ca.pem", authority), ("key.pem", key), ("certificate.pem", certificate)):
        (root / name).write_bytes(octets)
    config = root / "dovecot.conf"
    config.write_text(DOVECOT_CONF.format(root=root, address=PEER, password=PASSWORD))
    try:
        with (root / "dovecot.err").open("w") as said:  # not a pipe: the daemon would hold it open
            subprocess.run(["dovecot", "-c", config], check=True, stdout=said, stderr=said)
        postfix.start()
        context = ssl.create_default_context(cafile=str(root / "ca.pem"))
        pids = [root / "queue/pid/master.pid", root / "dovecot/master.pid"]
        masters = [int(path.read_text()) for path in pids]
        yield Target((PEER, PORT), (PEER, 2993), context, "alice@bench.test", lambda: masters)
    finally:
        postfix.stop()
        subprocess.run(["doveadm", "-c", config, "stop"], check=False, capture_output=True)

"""legacy.test: a plain mail domain that knows nothing of Parley. Postfix where it is installed, else aiosmtpd."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

ADDRESS = "127.0.0.13"
PORT = 2525

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {root}/queue
data_directory = {root}/data
mail_owner = postfix
myhostname = mx.legacy.test
mydestination =
mynetworks = {address}/32
inet_interfaces = loopback-only
inet_protocols = ipv4
smtp_bind_address = {address}
smtp_host_lookup = native
smtp_dns_support_level = disabled
smtputf8_enable = no
virtual_mailbox_domains = legacy.test
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = static:carol/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
transport_maps = inline:{{ {{ alpha.test = smtp:[127.0.0.11]:2525 }}, {{ beta.test = smtp:[127.0.0.12]:2525 }} }}
minimal_backoff_time = 1s
"""

MASTER_CF = """\
{address}:2525 inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 1 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
tlsmgr    unix  - - n 1000? 1 tlsmgr
postlog   unix-dgram n - n - 1 postlogd
"""


class Legacy(Protocol):
    name: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def messages(self) -> list[bytes]: ...


class PostfixInstance:
    """A Postfix of its own, in a directory of its own, beside any that the system runs. Needs root."""

    def __init__(self, root: Path, address: str, main_cf: str) -> None:
        self.root = root
        self._address = address
        for name in ("etc", "queue", "data", "mail"):
            (root / name).mkdir(parents=True)
        (root / "etc/main.cf").write_text(main_cf.format(root=root, address=address))
        (root / "etc/master.cf").write_text(MASTER_CF.format(address=address))
        shutil.chown(root / "data", "postfix")
        shutil.chown(root / "mail", 65534, 65534)
        for part in (root, *root.parents):  # the delivery agent runs as nobody
            if part.stat().st_uid == os.getuid() and part != Path("/"):
                part.chmod(part.stat().st_mode | 0o055)

    def start(self) -> None:
        command = ["postfix", "-c", str(self.root / "etc"), "start"]
        for _ in range(5):  # beside another that starts just now it fails at times
            done = subprocess.run(command, check=False, capture_output=True)
            if done.returncode == 0:
                break
            time.sleep(1)
        done.check_returncode()
        _wait_for_port(self._address)

    def stop(self) -> None:
        subprocess.run(["postfix", "-c", str(self.root / "etc"), "stop"], check=False, capture_output=True)


class Postfix(PostfixInstance):
    name = "Postfix"

    def __init__(self, root: Path) -> None:
        super().__init__(root, ADDRESS, MAIN_CF)

    def messages(self) -> list[bytes]:
        return [p.read_bytes() for p in (self.root / "mail/carol/new").glob("*")]


class Aiosmtpd:
    """The stand-in where Postfix is not installed, or may not be started (it needs root)."""

    name = "aiosmtpd"

    def __init__(self) -> None:
        self._received: list[bytes] = []
        self._controller: Any = None

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self._received.append(envelope.content)
        return "250 OK"

    def start(self) -> None:
        from aiosmtpd.controller import Controller

        self._controller = Controller(self, hostname=ADDRESS, port=PORT, server_hostname="mx.legacy.test")
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def messages(self) -> list[bytes]:
        return list(self._received)


def legacy(root: Path) -> Legacy:
    if shutil.which("postfix") and os.geteuid() == 0:
        return Postfix(root)
    return Aiosmtpd()


def send_as_legacy(host: Legacy, mail: bytes, recipient: str) -> None:
    """carol writes: through her own Postfix, or where there is none, straight to the recipient's MX."""
    domain = recipient.rpartition("@")[2]
    address = ADDRESS if isinstance(host, Postfix) else {"alpha.test": "127.0.0.11", "beta.test": "127.0.0.12"}[domain]
    with smtplib.SMTP(address, PORT, timeout=20, source_address=(ADDRESS, 0)) as smtp:
        smtp.sendmail("carol@legacy.test", [recipient], mail)


def _wait_for_port(address: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            smtplib.SMTP(address, PORT, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

"""Where filters are, and rspamd from Debian over a real socket."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from gatewayd.address import Address
from gatewayd.core.filtering import FilterDown, refusal
from gatewayd.interfaces.queue import Envelope
from gatewayd.interfaces.routes import Origin
from gatewayd.net import filters
from gatewayd.net.filters import Place, ask_rspamd, place
from gatewayd.outcome import Deferred, Refused
from tests.peers import until

ALICE, BOB, CAROL = (Address.parse(f"{name}@alpha.test") for name in ("alice", "bob", "carol"))
ENVELOPE = Envelope(CAROL, (ALICE, BOB))
ORIGIN = Origin("192.0.2.7", "mail.elsewhere.test")
MAIL = b"From: carol@alpha.test\r\n\r\nBody\r\n"


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_nobody_there(tmp_path: Path) -> None:
    for at in (Place("127.0.0.1", 1), Place(str(tmp_path / "none.sock"))):
        with pytest.raises(FilterDown):
            ask_rspamd(at, MAIL, ENVELOPE, ORIGIN, None)


def test_a_filter_that_says_nothing_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        at = Place("127.0.0.1", mute.getsockname()[1])
        with pytest.raises(FilterDown):
            ask_rspamd(at, MAIL, ENVELOPE, ORIGIN, None)


def test_replies() -> None:
    assert refusal("550 5.7.9 words here", "x") == Refused("5.7.9", "words here", 550)
    assert refusal("451 words", "x") == Deferred("4.7.1", "words", reply=451)
    assert refusal("550 4.7.9 crossed", "x") == Refused("5.7.1", "crossed", 550)
    assert refusal("550", "fallback") == Refused("5.7.1", "fallback", 550)


def test_places() -> None:
    assert place("127.0.0.1:11333") == Place("127.0.0.1", 11333)
    assert place("[::1]:1") == Place("::1", 1)
    assert place("/run/milter.sock") == Place("/run/milter.sock")
    for text in ("", "host", ":1", "host:0", "host:x", "relative/path"):
        with pytest.raises(ValueError, match="expected"):
            place(text)


# -- real filters ---------------------------------------------------------------------------------------------------

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


@pytest.mark.skipif(shutil.which("rspamd") is None, reason="rspamd is not installed")
def test_rspamd_judges(tmp_path: Path) -> None:
    (tmp_path / "rspamd.conf").write_text(f"""
options {{
  pidfile = "{tmp_path}/pid"; tempdir = "{tmp_path}"; url_tld = "{tmp_path}/tld";
  filters = ""; disable_hyperscan = true;
  dns {{ nameserver = "127.0.0.1:1"; timeout = 0.1s; retransmits = 0; }}
}}
logging {{ type = "console"; level = "error"; }}
worker "normal" {{ bind_socket = "127.0.0.1:21333"; count = 1; }}
actions {{ reject = 15; add_header = 6; }}
""")
    (tmp_path / "tld").write_text("test\n")  # all of them take rspamd half a minute
    command = ["rspamd", "-f", "-i", "-c", str(tmp_path / "rspamd.conf")]
    at = Place("127.0.0.1", 21333)
    spam = b"From: carol@alpha.test\r\nSubject: x\r\nMIME-Version: 1.0\r\n\r\n" + GTUBE + b"\r\n"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            until(lambda: answers(at.port), "rspamd")
            bad = ask_rspamd(at, spam, ENVELOPE, ORIGIN, None)
            good = ask_rspamd(at, spam.replace(GTUBE, b"Hello"), ENVELOPE, ORIGIN, CAROL)
        finally:
            running.terminate()
    assert (bad.action, bad.outcome) == ("refuse", Refused("5.7.1", "It looks like spam"))
    assert bad.why.startswith("rspamd: reject")
    assert (good.action, good.mail) == ("take", spam.replace(GTUBE, b"Hello"))

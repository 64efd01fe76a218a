"""The program `parley` against a gateway in a process of its own: as people and scripts use it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from demo.world import BIN, PASSWORD, Gateway, ctl
from gatewayd.cli import parley

pytestmark = pytest.mark.xdist_group("parley")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.0.61", ["alice", "bob", "zoe"], 9)
    made.start()
    yield made
    made.stop()


@dataclass
class Done:
    stdout: str
    stderr: str


class Home:
    """A user's home directory, and the program in it: its `run`, on a reactor that is there already, since to start a
    process for each command takes long."""

    def __init__(self, root: Path, gateway: Gateway, reactor: Any) -> None:
        self.root = root
        self._gateway = gateway
        self._reactor = reactor

    def options(self) -> list[str]:
        host, port = self._gateway.port("parley")
        return ["--server", f"{host}:{port}", "--ca", str(self._gateway.root / "ca.pem")]

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "PARLEY_"))}
        none = "keyring.backends.fail.Keyring"
        return kept | {"HOME": str(self.root), "LC_ALL": "C.UTF-8", "PYTHON_KEYRING_BACKEND": none}

    def run(self, *words: object, ok: int = 0, text: str = "", **environment: str) -> Done:
        done = Done("", "")
        status: object = 0
        with pytest.MonkeyPatch.context() as patched, contextlib.chdir(self.root):
            patched.setattr(os, "environ", self.environment | environment)
            patched.setattr(sys, "stdin", io.StringIO(text))
            out, err = io.StringIO(), io.StringIO()
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", err)
            try:
                options = parley.parsed([str(word) for word in words])
                blockingCallFromThread(
                    self._reactor, lambda: Deferred.fromCoroutine(parley.run(self._reactor, options))
                )
            except SystemExit as ended:
                status = ended.code
                if isinstance(status, str):  # as the interpreter does
                    err.write(f"{status}\n")
                    status = 1
            done = Done(out.getvalue(), err.getvalue())
        assert status == ok, done
        return done

    def login(self, user: str) -> Done:
        return self.run(*self.options(), "login", user, PARLEY_PASSWORD=PASSWORD)

    def inbox(self, *words: object) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run("inbox", "--json", "--last", 0, *words).stdout.splitlines()]


@pytest.fixture(autouse=True)
def no_keyring() -> Iterator[None]:
    """Whatever the machine has."""
    before = keyring.get_keyring()
    keyring.set_keyring(NoKeyring())
    yield
    keyring.set_keyring(before)


@pytest.fixture
def alice(gateway: Gateway, tmp_path: Path, reactor: Any) -> Home:
    return _home(gateway, tmp_path, "alice", reactor)


@pytest.fixture
def bob(gateway: Gateway, tmp_path: Path, reactor: Any) -> Home:
    return _home(gateway, tmp_path, "bob", reactor)


def _home(gateway: Gateway, root: Path, name: str, reactor: Any) -> Home:
    (root / name).mkdir()
    home = Home(root / name, gateway, reactor)
    home.login(f"{name}@alpha.test")
    return home


# -- signing in -----------------------------------------------------------------------------------------------------


def test_login_keeps_the_password_where_only_the_owner_reads(gateway: Gateway, tmp_path: Path, reactor: Any) -> None:
    home = Home(tmp_path, gateway, reactor)
    said = home.run("inbox", ok=1).stderr
    assert said == "parley: who are you? parley login, or --user name@domain\n"
    refused = home.run(*home.options(), "login", "alice@alpha.test", ok=1, PARLEY_PASSWORD="wrong")
    assert refused.stderr == "parley: auth-failed: invalid-proof\n"
    assert list(tmp_path.iterdir()) == []  # nothing is kept of what failed
    done = home.login("alice@alpha.test")
    file = tmp_path / ".config/parley/accounts.json"
    assert done.stdout == "alice@alpha.test is signed in, and the default account\n"
    assert done.stderr == f"parley: no keyring here; the password is kept in {file} (only you can read it)\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    home.run("inbox")  # server, authorities and password are known


def test_several_accounts(gateway: Gateway, tmp_path: Path, reactor: Any) -> None:
    home = Home(tmp_path, gateway, reactor)
    home.login("alice@alpha.test")
    home.login("bob@alpha.test")
    assert home.run("accounts").stdout == "alice@alpha.test\nbob@alpha.test (default)\n"
    assert home.run("accounts", "alice@alpha.test").stdout == "alice@alpha.test (default)\nbob@alpha.test\n"
    home.run("--user", "bob@alpha.test", "sync")
    data = tmp_path / ".local/share/parley"
    assert [path.name for path in data.glob("*.sqlite")] == ["bob@alpha.test.sqlite"]
    assert (data / "bob@alpha.test.sqlite").stat().st_mode & 0o777 == 0o600
    assert str(data) in home.run("logout", "bob@alpha.test").stderr
    assert home.run("logout", "bob@alpha.test", ok=1).stderr == "parley: bob@alpha.test is not signed in\n"
    home.run("sync")
    home.run("logout", "--forget")
    assert [path.name for path in data.glob("alice*")] == []
    assert home.run("accounts").stdout == ""
    assert PASSWORD not in (tmp_path / ".config/parley/accounts.json").read_text()


def test_the_systems_keyring(gateway: Gateway, tmp_path: Path, reactor: Any) -> None:
    ring = Ring()
    keyring.set_keyring(ring)
    home = Home(tmp_path, gateway, reactor)
    assert home.login("alice@alpha.test").stderr == ""
    assert ring.kept == {("parley", "alice@alpha.test"): PASSWORD}
    assert PASSWORD not in (tmp_path / ".config/parley/accounts.json").read_text()
    home.run("sync")
    home.run("logout")
    assert ring.kept == {}


class Ring(KeyringBackend):
    priority = 9  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


def test_a_password_is_asked_on_a_terminal_only(gateway: Gateway, tmp_path: Path, reactor: Any) -> None:
    home = Home(tmp_path, gateway, reactor)
    said = home.run(*home.options(), "login", "alice@alpha.test", ok=1).stderr
    assert said.startswith("parley: the password of alice@alpha.test is not known: ")
    assert said.count("\n") == 1


def test_a_screen_needs_a_terminal(gateway: Gateway, alice: Home) -> None:
    words = [BIN / "parley", "chat"]
    done = subprocess.run(
        words, env=alice.environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"parley: chat needs a terminal")


def test_who_and_where_stand_before_or_behind_the_command(gateway: Gateway, tmp_path: Path, reactor: Any) -> None:
    home = Home(tmp_path, gateway, reactor)
    home.run("login", *home.options(), "alice@alpha.test", PARLEY_PASSWORD=PASSWORD)
    home.run("--user", "bob@alpha.test", *home.options(), "sync", PARLEY_PASSWORD=PASSWORD)
    (account,) = map(json.loads, home.run("accounts", "--json").stdout.splitlines())
    assert (account["address"], account["server"]) == ("alice@alpha.test", home.options()[1])


def test_which_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parley.parsed(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("parley 0.")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "usage: parley"),
        (["sned"], "invalid choice: 'sned' (choose from 'login', "),
        (["send", "bob", "x"], "'bob' is no address"),
        (["send", "bob@alpha.test,@", "x"], "'@' is no address"),
        (["grant", "nobody"], "'nobody' is no address"),
        (["inbox", "--last", "-3"], "a number, got '-3'"),
    ],
)
def test_a_command_line_that_makes_no_sense(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parley.parsed(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


# -- sending and reading --------------------------------------------------------------------------------------------


def test_send_and_inbox(gateway: Gateway, alice: Home, bob: Home) -> None:
    (alice.root / "a.txt").write_text("attached")
    words = ("send", "bob@alpha.test,zoe@alpha.test", "--subject", "Hi", "--file", "a.txt", "Grüße", "von", "hier")
    assert alice.run(*words).stderr == "bob@alpha.test: 2.0.0 Delivered\nzoe@alpha.test: 2.0.0 Delivered\n"
    alice.run("send", "bob@alpha.test", text="from standard input\n")
    refused = alice.run("send", "bob@alpha.test,nobody@alpha.test", "Hello", ok=1).stderr
    assert "nobody@alpha.test: 5.1.1" in refused
    assert refused.endswith("parley: 1 of 2 recipients did not take it; parley outbox has it\n")
    found = bob.inbox()
    assert [(m["from"], m["subject"], m["text"], m["files"]) for m in found[-3:]] == [
        ("alice@alpha.test", "Hi", "Grüße von hier", ["a.txt"]),
        ("alice@alpha.test", "", "from standard input\n", []),
        ("alice@alpha.test", "", "Hello", []),
    ]
    assert found[-1]["signed_by"] == "alpha.test"
    first, second = (bob.run("save", found[-3]["uid"]).stdout for _ in range(2))
    assert (first, second) == ("a.txt\n", "a-1.txt\n")
    assert (bob.root / "a-1.txt").read_text() == "attached"
    assert bob.run("save", found[-1]["uid"], ok=1).stderr == "parley: the message has no files\n"
    assert bob.run("save", "ffffffff", ok=1).stderr.startswith("parley: no message ffffffff in INBOX")
    assert bob.run("save", str(found[-3]["id"])[:10], "--into", "nowhere", ok=1).stderr.startswith("parley: [Errno 2]")
    assert bob.inbox("--mailbox", "Sent") == []
    assert bob.run("inbox", "--mailbox", "Snet", ok=1).stderr == "parley: there is no mailbox Snet\n"
    assert alice.inbox("--mailbox", "Sent")[-1]["text"] == "Hello"


def test_answers_and_searching(gateway: Gateway, alice: Home, bob: Home) -> None:
    sent = json.loads(alice.run("send", "--json", "bob@alpha.test", "Tea or coffee, Bob?").stdout)
    assert (sent["waiting"], sent["results"]) == (
        False, [{"to": "bob@alpha.test", "code": "2.0.0", "text": "Delivered"}],
    )  # fmt: skip
    assert bob.run("search", "--offline", "coffee", "TEA", "--json", ok=1).stdout == ""  # not on this device yet
    (found,) = map(json.loads, bob.run("search", "coffee", "TEA", "--json").stdout.splitlines())
    assert found["id"] == sent["id"]
    assert bob.run("search", "nowhere to be found", ok=1) == Done("", "")
    bob.run("send", "--answers", sent["id"][:16], "alice@alpha.test", "tea")
    assert alice.inbox()[-1]["answers"] == sent["id"]
    assert bob.run("send", "--answers", "99999", "alice@alpha.test", "x", ok=1).stderr.startswith("parley: no message")
    assert bob.inbox("--unread")[-1]["id"] == sent["id"]
    assert f"{found['uid']}*  " in bob.run("inbox").stdout


def test_edit_retract_and_react(gateway: Gateway, alice: Home, bob: Home) -> None:
    (alice.root / "menu.txt").write_text("soup")
    words = "send", "--json", "--subject", "Lunch", "--file", "menu.txt", "bob@alpha.test", "At none?"
    original = json.loads(alice.run(*words).stdout)["id"]
    assert alice.run("edit", original[:12], "At", "noon?").stderr == "bob@alpha.test: 2.0.0 Delivered\n"
    edit = alice.inbox("--mailbox", "Sent")[-1]
    assert (edit["type"], edit["replaces"], edit["text"]) == ("edit", original, "At noon?")
    assert (edit["subject"], edit["files"]) == ("Lunch", ["menu.txt"])
    alice.run("edit", original, "--subject", "Dinner", text="At six?")
    got = bob.inbox()[-1]
    assert (got["replaces"], got["subject"], got["text"]) == (original, "Dinner", "At six?")
    shown = bob.run("inbox", "--last", 3).stdout
    assert "edited)  Dinner\n  At six?\n  [menu.txt, 4 octets]\n" in shown
    assert "At no" not in shown
    shown = bob.run("search", "six").stdout
    assert shown.endswith("edited)  Dinner\n  At six?\n  [menu.txt, 4 octets]\n")
    assert shown.startswith(f"{next(m['uid'] for m in bob.inbox() if m['id'] == original)}*  ")
    assert bob.run("inbox", "--last", 1).stdout.endswith(
        'alice@alpha.test  edited "At none?"\n  At six?\n  [menu.txt, 4 octets]\n'
    )
    bob.run("inbox", "--last", 3, "--read")
    assert not {original, got["id"]} & {m["id"] for m in bob.inbox("--unread")}
    liked = json.loads(bob.run("react", "--json", original[:12], "\N{THUMBS UP SIGN}").stdout)
    assert [result["to"] for result in liked["results"]] == ["alice@alpha.test"]
    assert (alice.inbox()[-1]["type"], alice.inbox()[-1]["answers"]) == ("reaction", original)
    assert alice.run("inbox", "--last", 1).stdout.endswith('bob@alpha.test  reacted \N{THUMBS UP SIGN} to "At six?"\n')
    assert "  \N{THUMBS UP SIGN} bob@alpha.test\n" in alice.run("inbox", "--mailbox", "Sent", "--last", 3).stdout
    bob.run("retract", liked["id"])
    alice.run("retract", next(m["uid"] for m in alice.inbox("--mailbox", "Sent") if m["id"] == original))
    assert [m["replaces"] for m in (alice.inbox()[-1], bob.inbox()[-1])] == [liked["id"], original]
    assert bob.run("inbox", "--last", 4).stdout.endswith("edited)\n  (taken back by its author)\n")
    uid = next(m["uid"] for m in bob.inbox() if m["id"] == original)
    assert f"alice@alpha.test  took back INBOX {uid} of 20" in bob.run("inbox", "--last", 1).stdout
    assert "bob@alpha.test  took back \N{THUMBS UP SIGN} to Sent " in alice.run("inbox", "--last", 1).stdout
    for home, words, why in (
        (bob, ("edit", original, "x"), "only what you wrote yourself can be edited"),
        (bob, ("retract", original), "only what you wrote yourself can be taken back"),
        (alice, ("edit", edit["id"], "x"), "what is of the type edit cannot be edited"),
        (alice, ("edit", original, "x"), "it is taken back, and shown no more"),
        (bob, ("react", original, "far too many words for a reaction, which is an emoji or a few characters"),
            "a reaction is an emoji or a few characters, at most 64 octets"),
    ):  # fmt: skip
        assert home.run(*words, ok=1).stderr == f"parley: {why}\n"


@pytest.mark.parametrize("text", ["", " \n", "\udcff not UTF-8"])
def test_nothing_that_can_be_sent(text: str, gateway: Gateway, alice: Home) -> None:
    said = alice.run("send", "bob@alpha.test", text=text, ok=1)
    assert said.stderr.startswith("parley: ")
    assert alice.run("outbox").stdout == ""


def test_who_reads_has_enough(gateway: Gateway, alice: Home, bob: Home) -> None:
    """As `head` does: no complaint."""
    for _ in range(8):  # far more than a pipe holds, each of them too short for a file
        alice.run("send", "bob@alpha.test", "\n".join("line" * 30 for _ in range(500)))
    process = subprocess.Popen(
        [BIN / "parley", "inbox"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=bob.environment, cwd=bob.root
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 128 + signal.SIGPIPE
    process.stderr.close()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [BIN / "parley", "accounts"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=bob.environment,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"parley: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_ctrl_c(moment: str, gateway: Gateway, alice: Home, bob: Home) -> None:
    """While it begins, and while it waits: it ends, and says nothing."""
    process = subprocess.Popen(
        [BIN / "parley", "watch", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=bob.environment
    )
    assert process.stdout is not None
    if moment == "later":
        while not bob.root.joinpath(".local/share/parley").exists() or not bob.inbox("--offline"):
            alice.run("send", "bob@alpha.test", "come on")
        alice.run("send", "bob@alpha.test", "live")
        while b"live" not in process.stdout.readline():
            pass
    else:
        while "msgspec" not in Path(f"/proc/{process.pid}/maps").read_text():  # it imports what it needs
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (128 + signal.SIGINT, b"")


def test_what_a_message_says_does_not_command_the_terminal(gateway: Gateway, alice: Home, bob: Home) -> None:
    alice.run("send", "bob@alpha.test", "--subject", "a\x1b[2Jb\u202ec", "--", "\x1b]0;owned\x07\r\u2066x\tand\u00a0y")
    shown = bob.run("inbox", "--last", 1).stdout
    assert "a\ufffd[2Jb\ufffdc" in shown
    assert "\ufffd]0;owned\ufffd" in shown
    assert "\ufffdx and y" in shown
    assert not set(shown) & set("\x1b\x07\r\u202e\u2066")
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
    alice.run("send", "bob@alpha.test", f"{flag} a\U000e0068\U000e0069\u200d")
    assert f"  {flag} a\ufffd\ufffd\u200d\n" in bob.run("inbox", "--last", 1).stdout


def test_watch_shows_each_message_once(gateway: Gateway, alice: Home, bob: Home) -> None:
    """Also over a restart of the gateway; what is marked in between is no message."""
    alice.run("send", "bob@alpha.test", "before")
    process = subprocess.Popen(
        [BIN / "parley", "watch", "--json"], stdout=subprocess.PIPE, text=True, env=bob.environment, cwd=bob.root
    )
    assert process.stdout is not None
    try:
        while not _watched(bob):
            time.sleep(0.05)
        alice.run("send", "bob@alpha.test", "one")
        assert json.loads(process.stdout.readline())["text"] == "one"
        gateway.kill()
        gateway.start()
        alice.run("send", "bob@alpha.test", "two")
        alice.run("send", "bob@alpha.test", "three")
        assert [json.loads(process.stdout.readline())["text"] for _ in range(2)] == ["two", "three"]
    finally:
        process.kill()
        process.communicate()


def _watched(home: Home) -> bool:
    """`watch` has brought the copy up to date, and asks for the tail next."""
    return any(m["text"] == "before" for m in home.inbox("--offline"))


# -- offline --------------------------------------------------------------------------------------------------------


def test_offline_and_back(gateway: Gateway, alice: Home, bob: Home) -> None:
    alice.run("send", "bob@alpha.test", "while online")
    bob.inbox()
    gateway.stop()
    try:
        done = bob.run("inbox", "--last", 1)
        assert "while online" in done.stdout
        assert done.stderr.startswith("parley: offline, this is what was here: ")
        assert "while online" in bob.run("inbox", "--last", 1, "--offline").stdout
        said = bob.run("send", "alice@alpha.test", "--subject", "S", "from the train").stderr
        assert said.startswith("parley: it waits in the outbox: ")
        bob.run("send", "--later", "alice@alpha.test,nobody@alpha.test", "later")
        bob.run("send", "--later", "alice@alpha.test", "not meant so")
        lines = bob.run("outbox").stdout.splitlines()
        assert [line.split("  ", 1)[1] for line in lines] == [
            "waits   to alice@alpha.test  S", "waits   to alice@alpha.test, nobody@alpha.test  later",
            "waits   to alice@alpha.test  not meant so",
        ]  # fmt: skip
        assert len(bob.run("outbox", "--cancel", lines[2].split()[0]).stdout.splitlines()) == 2
        assert bob.run("outbox", "--cancel", "beef", ok=1).stderr.endswith("begin with beef\n")
        assert bob.run("sync", ok=1).stderr.startswith("parley: ")
    finally:
        gateway.start()
    assert bob.run("sync").stdout.endswith("; 0 in the outbox; 1 not delivered, see parley outbox\n")
    head, why = bob.run("outbox").stdout.splitlines()
    assert head.split("  ", 1)[1] == "failed  to nobody@alpha.test  later"
    assert why.startswith("    nobody@alpha.test: 5.1.1")
    assert [m["text"] for m in alice.inbox()[-2:]] == ["from the train", "later"]


def test_what_was_refused_is_sent_again_or_given_up(gateway: Gateway, alice: Home, bob: Home) -> None:
    """It arrives once, as what it was."""
    address = f"late{time.time_ns()}@alpha.test"
    sent = json.loads(alice.run("send", "--json", f"bob@alpha.test,{address}", "Hello", ok=1).stdout)
    (failed,) = map(json.loads, alice.run("outbox", "--json").stdout.splitlines())
    assert (failed["id"], failed["state"], failed["to"]) == (sent["id"], "failed", [address])
    assert failed["why"][address].startswith("5.1.1")
    assert alice.run("outbox", "--again", sent["id"][:8], ok=1).stderr.startswith(f"parley: {address}: 5.1.1")
    ctl("--config", gateway.config, "account", "add", address, "--password-stdin", stdin=PASSWORD)
    assert alice.run("outbox", "--again", sent["id"][:8]).stdout == ""
    late = alice.run("inbox", *alice.options(), "--json", "--user", address, PARLEY_PASSWORD=PASSWORD).stdout
    assert [json.loads(line)["id"] for line in late.splitlines()] == [sent["id"]]
    assert [m["id"] for m in bob.inbox()].count(sent["id"]) == 1
    for name in ("nobody", "nowhere"):
        alice.run("send", f"{name}@alpha.test", "Hello", ok=1)
    ids = [line.split()[0] for line in alice.run("outbox").stdout.splitlines()[::2]]
    assert alice.run("outbox", "--cancel", *ids).stdout == ""


KILLED = """
import os, sys
from gatewayd.client.outbox import Outbox
from gatewayd.cli.parley import main

async def settle(self, waiting, results):
    os.kill(os.getpid(), 9)

if sys.argv[1] == "before":
    Outbox.waiting = lambda self: settle(self, None, None)
else:
    Outbox.settle = settle
main(sys.argv[2:])
"""


def test_a_message_is_many_words_or_none_at_all(gateway: Gateway, alice: Home, bob: Home) -> None:
    """As a process, since the words of the command line are its own affair."""
    words = [BIN / "parley", "send", "--later", "bob@alpha.test", "one", "--subject", "S", "two", "--", "--three"]
    done = subprocess.run(words, env=alice.environment, cwd=alice.root, timeout=60, check=False)
    assert done.returncode == 0
    assert alice.run("sync").stdout.endswith(" new; 0 in the outbox\n")
    found = bob.inbox()[-1]
    assert (found["subject"], found["text"]) == ("S", "one two --three")
    with pytest.raises(SystemExit):
        parley.parsed(["send", "a@a.test", "text", "--sbject", "S"])
    with pytest.raises(SystemExit):
        parley.parsed(["sync", "now"])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_program_that_is_killed_while_it_sends(moment: str, gateway: Gateway, alice: Home, bob: Home) -> None:
    """Before anything was tried, and after the server took it but before that was noted: it arrives once."""
    text = f"killed {moment}"
    words = [sys.executable, "-c", KILLED, moment, "send", "bob@alpha.test", text]
    for _ in range(2):
        done = subprocess.run(words, env=alice.environment, cwd=alice.root, timeout=60, check=False)
        assert done.returncode == -9
        words[4:] = ["sync"]
    gateway.kill()  # the server's memory of it is on its disk
    gateway.start()
    assert alice.run("sync").stdout.endswith("; 0 in the outbox\n")
    assert alice.run("sync").stdout.startswith("0 new")
    assert [m["text"] for m in bob.inbox()].count(text) == 1
    assert [m["text"] for m in alice.inbox("--mailbox", "Sent")].count(text) == 1


# -- who signed -----------------------------------------------------------------------------------------------------


def test_verify(gateway: Gateway, alice: Home, bob: Home) -> None:
    alice.run("send", "bob@alpha.test", "signed")
    with smtplib.SMTP(*gateway.port("smtp"), timeout=30) as smtp:
        smtp.sendmail("eve@elsewhere.test", ["bob@alpha.test"], "From: boss@alpha.test\r\n\r\nPay!\r\n")
    native, bridged = bob.inbox()[-2:]
    alice.run("sync")
    assert bob.run("verify", native["uid"]).stdout.splitlines() == [
        "Signed by alpha.test, the domain of its author alice@alpha.test.",
        "1 of 1 parts are here, and are what was signed.",
    ]
    said = bob.run("verify", str(bridged["id"])[:12]).stdout
    assert said.startswith("Born as mail. alpha.test took it in, and signs for that and for nothing else.\n")
    assert "Who wrote it is what the mail says: boss@alpha.test.\n" in said
    shown = bob.run("keys", "alpha.test", "--out", "alpha.keys").stdout
    assert len(shown.split()[1]) == 64
    gateway.stop()
    try:
        assert "the keys that alpha.test showed at" in bob.run("verify", native["uid"]).stderr
        assert bob.run("verify", native["uid"], "--keys", "alpha.keys").stderr == ""
        assert "cannot be had now" in alice.run("verify", native["id"], ok=3).stderr
    finally:
        gateway.start()


def test_trace_shows_the_frames_and_no_secret(gateway: Gateway, alice: Home) -> None:
    said = alice.run("--trace", "send", "bob@alpha.test", "traced").stderr
    lines = said.splitlines()
    assert lines[0].startswith('-> HELLO {"version": 1, "name": "gatewayd.client", "frame": ')
    assert '-> REQ 1 auth {"mechanism": "SCRAM-SHA-256-PLUS", "data": ...}' in said
    assert '<- RES 2 auth {"done": true, "data": ...}' in said
    (send,) = (line for line in lines if line.startswith("-> REQ 3 send"))
    assert '"to": ["bob@alpha.test"]' in send
    assert '"payload": <<{"to": ["bob@alpha.test"], "date": ' in send
    assert f"h'{b'traced'.hex()}'" in send
    assert '<- RES 3 send {"results": [{"to": "bob@alpha.test", "code": "2.0.0", "text": "Delivered"}]}' in said
    assert lines[-2].startswith('-> BYE {"code": "", "text": ""}')
    assert PASSWORD not in said

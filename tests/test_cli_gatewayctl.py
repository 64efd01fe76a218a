"""The command as operators run it, over one directory."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.threads import blockingCallFromThread

from demo.world import BIN, ctl
from gatewayd.cli.gatewayctl import Gateway
from gatewayd.config import load


def test_init_and_accounts(tmp_path: Path) -> None:
    where = tmp_path / "alpha"
    made = ["init", str(where), "--domain", "alpha.test", "--hostname", "mx.alpha.test", "--loopback"]
    assert ctl(*made, "--account", "alice:one").returncode == 0
    before = {file: file.read_bytes() for file in where.iterdir() if file.is_file()}
    assert ctl(*made, "--account", "alice:two").returncode == 0
    assert {file: file.read_bytes() for file in where.iterdir() if file.is_file()} == before
    assert (where / "key.pem").stat().st_mode & 0o077 == 0
    assert len(list((where / "state/keys/alpha.test").glob("*.pem"))) == 1

    config = ["--config", str(where / "gatewayd.toml")]
    assert load(where / "gatewayd.toml").listen.smtp[0].port == 2525
    assert ctl(*config, "account", "add", "Bob@alpha.test", "--password-stdin", stdin="pw\n").returncode == 0
    again = ctl(*config, "account", "add", "bob@alpha.test", "--password-stdin", stdin="pw\n")
    assert (again.returncode, again.stderr) == (1, "gatewayctl: bob@alpha.test exists\n")
    assert ctl(*config, "account", "list").stdout.split() == ["alice@alpha.test", "Bob@alpha.test"]
    records = ctl(*config, "dns", "alpha.test").stdout
    assert "SRV 0 0 5299 mx.alpha.test." in records and "_5299._tcp.mx.alpha.test. TLSA 3 1 1 " in records
    key = r"v=parley1; k=\S{44}; from=\d+; until=\d+"
    assert re.search(rf'^_keys\._parley\.alpha\.test\. 3600 TXT "{key}"', records, re.MULTILINE)


def test_keys(tmp_path: Path) -> None:
    where = tmp_path / "alpha"
    assert (
        ctl("init", str(where), "--domain", "alpha.test", "--hostname", "mx.alpha.test", "--loopback").returncode == 0
    )

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        return ctl("--config", str(where / "gatewayd.toml"), "keys", *arguments)

    (path,) = (where / "state/keys/alpha.test").glob("*.pem")
    first = path.stem
    assert re.search(rf"{first}.*signs", keys("list", "alpha.test").stdout)
    rotated = keys("rotate", "alpha.test", "--after", "48").stdout
    assert len(re.findall(r"_keys\._parley\.alpha\.test\. 3600 TXT", rotated)) == 1
    assert re.search(rf"{first}.*signs", rotated) and re.search(r"\w{16}.*next", rotated)
    again = keys("rotate", "alpha.test")
    assert again.returncode == 1 and "about to take over" in again.stderr
    revoked = keys("revoke", "alpha.test", first).stdout
    assert first not in keys("list", "alpha.test").stdout and re.search(rf"{first} is shown no longer", revoked)
    assert len(re.findall(r"_keys\._parley\.alpha\.test\. 3600 TXT", revoked)) == 2  # the next, and one for now
    for wrong in (("revoke", "alpha.test", first), ("revoke", "alpha.test", "xyz"), ("list", "beta.test")):
        done = keys(*wrong)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done


def test_a_missing_configuration_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: the others share this one."""
    command = [BIN / "gatewayctl", "--config", tmp_path / "none.toml", "domain", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("gatewayctl: ") and done.stderr.count("\n") == 1


def test_import(tmp_path: Path, reactor: Any) -> None:
    where = tmp_path / "alpha"
    made = ["init", str(where), "--domain", "alpha.test", "--hostname", "mx.alpha.test", "--loopback"]
    assert ctl(*made, "--account", "alice:one").returncode == 0
    (tmp_path / "mbox").write_text("From a@b Thu Jan  1 00:01:00 1970\nFrom: a@b.test\nSubject: x\n\n>From me\n")
    config = ["--config", str(where / "gatewayd.toml")]
    done = ctl(*config, "import", "alice@alpha.test", str(tmp_path / "mbox"), "--mailbox", "Old/2020")
    assert (done.returncode, done.stdout) == (0, "1 messages imported\n"), done.stderr

    async def stored() -> list[bytes]:
        gateway = Gateway(load(where / "gatewayd.toml"), reactor)
        account = await gateway.account("alice@alpha.test")
        box = await gateway.store.mailbox(account.account_id, "Old/2020")
        entries = await gateway.store.entries(account.account_id, box.mailbox_id)
        assert [entry.internal_date_ms for entry in entries] == [60_000]
        mails = await gateway.store.mails(account.account_id, [entry.message_id for entry in entries])
        gateway.database.close()
        return list(mails.values())

    mails = blockingCallFromThread(reactor, lambda: defer.Deferred.fromCoroutine(stored()))
    assert mails == [b"From: a@b.test\r\nSubject: x\r\n\r\nFrom me\r\n"]


def test_aliases_and_quota(tmp_path: Path) -> None:
    where = tmp_path / "alpha"
    made = ["init", str(where), "--domain", "alpha.test", "--hostname", "mx.alpha.test", "--loopback"]
    assert ctl(*made, "--account", "alice:one").returncode == 0
    config = ["--config", str(where / "gatewayd.toml")]
    assert ctl(*config, "alias", "add", "Sales@alpha.test", "alice@alpha.test", "far@away.test").returncode == 0
    assert ctl(*config, "alias", "add", "@alpha.test", "sales@alpha.test").returncode == 0
    assert ctl(*config, "alias", "list").stdout.splitlines() == [
        "@alpha.test sales@alpha.test", "Sales@alpha.test alice@alpha.test", "Sales@alpha.test far@away.test",
    ]  # fmt: skip
    for words in (
        ["add", "x@beta.test", "alice@alpha.test"], ["add", "x@alpha.test", "nobody@alpha.test"],
        ["add", "x@alpha.test", "nonsense"], ["remove", "x@alpha.test"],
    ):  # fmt: skip
        done = ctl(*config, "alias", *words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert ctl(*config, "alias", "remove", "sales@alpha.test", "far@away.test").returncode == 0
    assert ctl(*config, "alias", "remove", "@alpha.test").returncode == 0
    assert ctl(*config, "alias", "list").stdout == "Sales@alpha.test alice@alpha.test\n"

    quota = [*config, "quota", "alice@alpha.test"]
    assert ctl(*quota).stdout == "octets: 0 of any number\nmessages: 0 of any number\n"
    assert ctl(*quota, "--octets", "10M", "--messages", "7").stdout == "octets: 0 of 10485760\nmessages: 0 of 7\n"
    assert ctl(*quota, "--octets", "none").stdout == "octets: 0 of any number\nmessages: 0 of 7\n"
    assert ctl(*quota, "--messages", "many").returncode == 2

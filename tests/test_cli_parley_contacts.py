"""`parley contacts` and its kin against a gateway, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gatewayd.cli import parley
from gatewayd.crypto.certificates import make_authority
from tests.house import ALICE, ALPHA, BOB, CAROL, PASSWORD, House


def test_who_may_write(
    reactor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = House(reactor, tmp_path / "alpha", ALPHA, (ALICE, BOB), {}, make_authority("Test authority"))
    monkeypatch.setenv("PARLEY_PASSWORD", PASSWORD)
    where = ["--user", str(BOB), "--ca", str(alpha.authorities), "--server", f"127.0.0.1:{alpha.port}"]

    def typed(*words: str) -> str:
        options = parley.parsed([*where, *words])
        alpha.wait(parley.run(reactor, options))
        return capsys.readouterr().out

    try:
        assert typed("contacts") == ""
        bob = alpha.wait(alpha.store.account(BOB))
        assert bob is not None
        alpha.wait(alpha.store.set_contact(bob.account_id, CAROL, "requested"))
        assert typed("contacts").startswith("carol@beta.test waits for your answer since 20")
        alpha.wait(parley.run(reactor, parley.parsed([*where, "inbox"])))
        assert capsys.readouterr().err == "ask to write to you (parley grant, parley revoke): carol@beta.test\n"
        assert typed("grant", str(CAROL)).startswith("carol@beta.test may write since 20")
        assert typed("revoke", "eve@gamma.test").startswith("eve@gamma.test may not write since 20")
        told = [json.loads(line) for line in typed("contacts", "--json").splitlines()]
        assert [(contact["address"], contact["state"]) for contact in told] == [
            ("carol@beta.test", "granted"), ("eve@gamma.test", "revoked"),
        ]  # fmt: skip
        assert typed("cancel", "eve@gamma.test") == "eve@gamma.test is a stranger\n"
        assert (
            typed("lookup", str(ALICE)) == "alice@alpha.test is a user of this server\nalice@alpha.test is a stranger\n"
        )
        assert json.loads(typed("lookup", str(ALICE), "--json"))["way"] == "local"
        assert typed("lookup", "nobody@alpha.test").startswith("nobody@alpha.test cannot be reached\n")
        with pytest.raises(SystemExit, match="parley: unavailable: no DNS"):
            typed("request", str(CAROL))
    finally:
        alpha.stop()

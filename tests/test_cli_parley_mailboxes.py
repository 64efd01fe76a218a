"""`parley mailboxes` against a gateway, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gatewayd.cli import parley
from gatewayd.crypto.certificates import make_authority
from tests.house import ALICE, ALPHA, PASSWORD, House


def test_mailboxes(
    reactor: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha = House(reactor, tmp_path / "alpha", ALPHA, (ALICE,), {}, make_authority("Test authority"))
    monkeypatch.setenv("PARLEY_PASSWORD", PASSWORD)
    where = ["--user", str(ALICE), "--ca", str(alpha.authorities), "--server", f"127.0.0.1:{alpha.port}"]

    def typed(*words: str) -> str:
        alpha.wait(parley.run(reactor, parley.parsed([*where, "mailboxes", *words])))
        return capsys.readouterr().out

    try:
        alpha.fill(ALICE, 2)
        assert "      2       2 unread  INBOX\n" in typed()
        assert "      0       0 unread  Sent (Sent)\n" in typed()
        assert typed("create", "Work") == "      0       0 unread  Work\n"
        assert typed("rename", "Work", "Play") == "      0       0 unread  Play\n"
        assert typed("unsubscribe", "Play") == "      0       0 unread  Play (not subscribed)\n"
        assert typed("subscribe", "Play") == "      0       0 unread  Play\n"
        assert {json.loads(line)["name"] for line in typed("--json").splitlines()} >= {"INBOX", "Play"}
        assert typed("delete", "Play") == ""
        with pytest.raises(SystemExit, match="parley: not-found: no mailbox Play"):
            typed("delete", "Play")
    finally:
        alpha.stop()

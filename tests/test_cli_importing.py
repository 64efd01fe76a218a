"""mbox and Maildir: the octets that went in come out, with CRLF."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatewayd.cli.importing import Found, read


def test_mboxrd(tmp_path: Path) -> None:
    file = tmp_path / "mbox"
    file.write_bytes(
        b"From a@b Thu Jan  1 00:01:00 1970\nSubject: x\n\n>From me\n>>From you\nFrom here\n\n"
        b"From c nonsense\nSubject: y\r\n\r\n\xff\n"
    )
    assert list(read(file)) == [
        Found(b"Subject: x\r\n\r\nFrom me\r\n>From you\r\nFrom here\r\n", (), 60_000),
        Found(b"Subject: y\r\n\r\n\xff\r\n", (), None),
    ]


def test_maildir(tmp_path: Path) -> None:
    for name in ("cur", "new", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "cur/1.a:2,RS").write_bytes(b"A: b\n\nc\n")
    (tmp_path / "new/2.b").write_bytes(b"D: e\n\n")
    (tmp_path / "tmp/3.c").write_bytes(b"half a mess")
    found = list(read(tmp_path))
    assert [(f.mail, f.flags) for f in found] == [
        (b"A: b\r\n\r\nc\r\n", ("\\Answered", "\\Seen")),
        (b"D: e\r\n\r\n", ()),
    ]
    assert all(f.internal_date_ms for f in found)


def test_neither(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a Maildir"):
        list(read(tmp_path))
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(ValueError, match="not an mbox"):
        list(read(tmp_path / "text"))
    (tmp_path / "empty").write_text("")
    assert list(read(tmp_path / "empty")) == []

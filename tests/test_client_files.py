"""Saving files under names that somebody else chose."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from gatewayd.client.files import safe_name, save
from gatewayd.client.message import Message
from gatewayd.message.model import Content, Part


@pytest.mark.parametrize(
    ("given_name", "used"),
    [
        ("photo.jpg", "photo.jpg"),
        ("../../.ssh/authorized_keys", "authorized_keys"),
        ("C:\\Windows\\evil.exe", "evil.exe"),
        ("..", "file"),
        ("", "file"),
        (".bashrc", "bashrc"),
        ("--force", "force"),
        ("a\x1b[2J\u202egpj.exe", "a_[2J_gpj.exe"),
        ("x" * 300 + ".txt", "x" * 180 + ".txt"),
        ("Grüße für dich.pdf", "Grüße für dich.pdf"),
    ],
)
def test_names(given_name: str, used: str) -> None:
    assert safe_name(given_name) == used


@given(st.text())
def test_no_name_leads_away(name: str) -> None:
    used = safe_name(name)
    assert used
    assert not set(used) & set("/\\\0\n")
    assert used[0] not in ".-"
    assert len(used.encode()) <= 255
    assert used.isprintable()


def message(body: bytes | None) -> Message:
    return Message("INBOX", 1, 1, (), Content(b"", b"", b"", {} if body is None else {sha256(body).digest(): body}))


def saved(body: bytes | None, part: Part, directory: Path, remote: bytes | None = None) -> Path:
    async def download(part: Part, path: Path) -> None:
        if remote is None:
            raise ConnectionError("offline")
        path.with_name(path.name + ".part").write_bytes(remote)
        path.with_name(path.name + ".part").rename(path)

    found: list[Path] = []
    failed: list[Exception] = []
    running = Deferred.fromCoroutine(save(message(body), part, directory, download))
    running.addCallbacks(found.append, lambda failure: failed.append(failure.value))
    if failed:
        raise failed[0]
    return found[0]


def test_nothing_is_written_over(tmp_path: Path) -> None:
    part = Part(sha256(b"body").digest(), "text/plain", 4, "a.txt")
    names = [saved(b"body", part, tmp_path).name for _ in range(3)]
    assert names == ["a.txt", "a-1.txt", "a-2.txt"]
    plain = Part(part.hash, part.type, 4, "README")
    assert [saved(b"body", plain, tmp_path).name for _ in range(2)] == ["README", "README-1"]
    assert (tmp_path / "README-1").read_bytes() == b"body"
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    linked = Part(part.hash, part.type, 4, "link")
    assert saved(b"body", linked, tmp_path).name == "link-1"
    assert (tmp_path / "elsewhere").read_text() == "precious"


def test_a_large_file_is_fetched(tmp_path: Path) -> None:
    part = Part(bytes(32), "text/plain", 4, "a.txt")
    with pytest.raises(ConnectionError):
        saved(None, part, tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing empty is left
    assert saved(None, part, tmp_path, b"blob").read_bytes() == b"blob"

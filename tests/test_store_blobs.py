"""Large bodies as files: durable, whole, shared, and swept only when nobody wants them."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gatewayd.store.blobs import BlobStore

BODY = b"octets" * 50_000
DIGEST = hashlib.sha256(BODY).digest()
OLD, LATER = 1_000_000.0, 2_000_000.0  # seconds since the epoch


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


def put_long_ago(blobs: BlobStore, body: bytes = BODY) -> bytes:
    digest = hashlib.sha256(body).digest()
    blobs.put(digest, body)
    os.utime(blobs.path(digest), (OLD, OLD))
    return digest


def test_what_was_put_is_there_once(blobs: BlobStore, tmp_path: Path) -> None:
    for _ in range(3):
        blobs.put(DIGEST, BODY)
        assert blobs.get(DIGEST) == BODY
    assert BlobStore(tmp_path / "blobs").get(DIGEST) == BODY
    assert files(tmp_path) == [blobs.path(DIGEST)]
    with pytest.raises(FileNotFoundError):
        blobs.get(bytes(32))


def test_synced_before_it_has_its_name_and_the_name_too(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[Path, bool]] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        synced.append((Path(f"/proc/self/fd/{handle}").readlink(), named.exists()))

    named = blobs.path(DIGEST)
    monkeypatch.setattr(os, "fsync", watched)
    blobs.put(DIGEST, BODY)
    (written, before), *directories = synced
    assert written.parent == named.parent
    assert not before
    assert directories == [(named.parent, True), (named.parent.parent, True)]
    synced.clear()
    blobs.put(DIGEST, BODY)  # the first may not have come so far yet
    assert synced == directories


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_nothing(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match=os.strerror(number)):
            blobs.put(DIGEST, BODY)
    assert files(tmp_path) == []
    blobs.put(DIGEST, BODY)
    assert blobs.get(DIGEST) == BODY


def test_many_put_the_same_at_once(blobs: BlobStore, tmp_path: Path) -> None:
    failed: list[Exception] = []

    def put() -> None:
        try:
            for number in range(20):
                body = BODY + bytes([number])
                blobs.put(hashlib.sha256(body).digest(), body)
                assert blobs.get(hashlib.sha256(body).digest()) == body
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(files(tmp_path)) == 20


def test_swept_is_what_is_old_and_not_wanted(blobs: BlobStore) -> None:
    wanted, unwanted = put_long_ago(blobs, b"wanted"), put_long_ago(blobs, b"unwanted")
    blobs.put(DIGEST, BODY)  # now: a row that names it may be on its way
    assert blobs.sweep({wanted}, LATER) == 1
    assert (blobs.get(wanted), blobs.get(DIGEST)) == (b"wanted", BODY)
    assert not blobs.path(unwanted).exists()
    assert blobs.sweep({wanted}, LATER) == 0
    assert blobs.sweep(set(), OLD) == 0
    assert blobs.sweep(set(), OLD + 1) == 1


def test_nothing_to_sweep(blobs: BlobStore) -> None:
    assert blobs.sweep(set(), LATER) == 0


def test_one_that_is_put_again_is_young_again(blobs: BlobStore) -> None:
    put_long_ago(blobs)
    blobs.put(DIGEST, BODY)
    assert blobs.sweep(set(), LATER) == 0
    assert blobs.get(DIGEST) == BODY


def at_first_look(monkeypatch: pytest.MonkeyPatch, path: Path, before: Any = None, after: Any = None) -> None:
    """Something else happens right before or after the sweep has looked at that file."""
    stat, looked = Path.stat, []

    def watched(self: Path, **arguments: Any) -> os.stat_result:
        first = self == path and not looked
        if first:
            looked.append(1)
        if first and before:
            before()
        result = stat(self, **arguments)
        if first and after:
            after()
        return result

    monkeypatch.setattr(Path, "stat", watched)


def test_put_again_while_the_sweep_is_at_it(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    put_long_ago(blobs)
    at_first_look(monkeypatch, blobs.path(DIGEST), after=lambda: blobs.put(DIGEST, BODY))
    assert blobs.sweep(set(), LATER) == 0
    assert blobs.get(DIGEST) == BODY
    assert files(tmp_path) == [blobs.path(DIGEST)]


def test_a_file_that_goes_while_the_sweep_is_at_it(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_long_ago(blobs)
    put_long_ago(blobs, b"another")
    at_first_look(monkeypatch, blobs.path(DIGEST), before=blobs.path(DIGEST).unlink)
    assert blobs.sweep(set(), LATER) == 1


KILLED = """
import hashlib, os, sys
from pathlib import Path
from gatewayd.store.blobs import BlobStore

blobs, number = BlobStore(Path(sys.argv[1])), 0
while True:
    number += 1
    body = b"%d" % number * 30_000
    blobs.put(hashlib.sha256(body).digest(), body)
    print(number, flush=True)
"""


def test_whole_or_not_at_all_after_kill_9(blobs: BlobStore, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "blobs")], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert process.stdout is not None
    last = 0
    for line in process.stdout:
        last = int(line)
        if last == 100:
            process.send_signal(signal.SIGKILL)
    process.wait()
    assert last >= 100
    for number in range(1, last + 1):
        body = b"%d" % number * 30_000
        assert blobs.get(hashlib.sha256(body).digest()) == body
    for path in files(tmp_path):
        if "." not in path.name:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.parent.name + path.name


def test_what_a_killed_process_left_is_swept(blobs: BlobStore, tmp_path: Path) -> None:
    put_long_ago(blobs)
    stray = blobs.path(DIGEST).with_name(blobs.path(DIGEST).name + ".123.456")
    stray.write_bytes(BODY[:100])
    os.utime(stray, (OLD, OLD))
    assert blobs.sweep({DIGEST}, LATER) == 1
    assert files(tmp_path) == [blobs.path(DIGEST)]

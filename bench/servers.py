"""A server that is measured beside ours: a process and a certificate of its own, and clients of one kind."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gatewayd.crypto.certificates import issue, make_authority


class Server(NamedTuple):
    protocol: str  # as in load.Spec
    address: tuple[str, int]
    domain: str
    authorities: Path
    pid: int


@contextmanager
def server(
    root: Path, protocol: str, address: tuple[str, int], domain: str, command: Sequence[str]
) -> Iterator[Server]:
    """`command` serves there, with key.pem and certificate.pem of `root`. Raises RuntimeError if it does not begin."""
    authority_key, authority = make_authority("bench")
    key, certificate = issue(authority_key, authority, [domain], [])
    for name, octets in (("ca.pem", authority), ("key.pem", key), ("certificate.pem", certificate)):
        (root / name).write_bytes(octets)
    with (root / "said.txt").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 15
        while not _listens(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{(root / 'said.txt').read_text()[-2000:]}")
            time.sleep(0.1)
        yield Server(protocol, address, domain, root / "ca.pem", process.pid)
    finally:
        process.terminate()
        process.wait(20)


def _listens(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, 1):
            return True
    except OSError:
        return False

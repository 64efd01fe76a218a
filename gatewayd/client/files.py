"""Saving a file that came: its name is the sender's, so nothing of it is believed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path, PureWindowsPath

from gatewayd.client.message import Message
from gatewayd.message.model import Part

Download = Callable[[Part, Path], Awaitable[None]]  # ParleyClient.download

LONGEST = 200  # octets of a name; most file systems take 255


def safe_name(name: str) -> str:
    """Its last component, without what steers a terminal, hides the file, or is too long."""
    name = PureWindowsPath(name).name  # takes / and \ alike
    name = "".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in name).lstrip(".- ").rstrip(". ")
    stem, dot, suffix = name.rpartition(".")
    if len(name.encode()) > LONGEST:
        suffix = (dot + suffix).encode()[:20].decode("utf-8", "ignore")
        name = (stem or name).encode()[: LONGEST - 20].decode("utf-8", "ignore") + suffix
    return name or "file"


async def save(message: Message, part: Part, directory: Path, download: Download) -> Path:
    """Where it was written: beside what is there, never over it. `download` gets a blob; the rest is at hand. Raises
    OSError and what `download` raises."""
    path = _reserved(directory, safe_name(part.name or ""))
    try:
        if part.hash in message.content.bodies:
            path.write_bytes(message.content.bodies[part.hash])
        else:
            await download(part, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _reserved(directory: Path, name: str) -> Path:
    """An empty file of that name, or one with a number."""
    stem, dot, suffix = name.rpartition(".")
    stem, dot, suffix = (stem, dot, suffix) if stem else (suffix, "", "")
    number = 0
    while True:
        path = directory / (f"{stem}-{number}{dot}{suffix}" if number else f"{stem}{dot}{suffix}")
        try:
            path.open("xb").close()
            return path
        except FileExistsError:
            number += 1

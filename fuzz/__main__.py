"""`python -m fuzz SECONDS [TARGET...]`: that long for each target. Exits 1 when something was found."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz.engines import TARGETS
from fuzz.sessions import house

MB = 1e6
WARM = 20  # inputs, for what is loaded once and kept


def resident() -> int:
    """Octets of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def run(name: str, target: Callable[[Random], None], seconds: float, memory: Callable[[], int]) -> int:
    """Returns how many different findings there were."""
    begin = str(time.time_ns())
    before, found, inputs = 0, set[str](), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if inputs == WARM:
            before = memory()
        seed = f"{name} {begin} {inputs}"
        try:
            target(Random(seed))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            if (what := f"{type(error).__name__} {where.filename}:{where.lineno}") not in found:
                found.add(what)
                print(f"FOUND with Random({seed!r}):\n{traceback.format_exc()}", flush=True)
        inputs += 1
    print(
        f"{name:<24} {inputs:>9} inputs {inputs / seconds:>8.0f}/s   memory {before / MB:.1f} MB before, "
        f"{memory() / MB:.1f} MB after   {len(found)} findings",
        flush=True,
    )
    return len(found)


def main(arguments: list[str]) -> int:
    seconds, wanted = float(arguments[0]), set(arguments[1:])
    found = sum(
        run(name, target, seconds, resident) for name, target in TARGETS.items() if not wanted or name in wanted
    )
    if not wanted or any(name.startswith("session_") for name in wanted):
        with tempfile.TemporaryDirectory() as root, house(Path(root)) as at:
            for name, target in at.targets.items():
                if not wanted or name in wanted:
                    found += run(name, target, seconds, at.memory)
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

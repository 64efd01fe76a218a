"""DESIGN §4: a module imports only from its own package or a floor below its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent / "gatewayd"

FLOORS = {
    "address": 0, "outcome": 0, "errors": 0, "once": 0, "strict_cbor": 0,
    "message": 1, "crypto": 1, "wire": 1, "database": 1,
    "interfaces": 1.5,  # the records and plug points: they name the message model, and nothing of floor 2
    "dns": 2, "store": 2, "queue": 2, "core": 2, "routing": 2,
    "session": 3,
    "net": 4,
    "config": 4.5, "metrics": 4.5, "client": 4.5, "storage": 4.8, "service": 5, "cli": 5,
}  # fmt: skip
WIRE_FORBIDDEN = {"twisted", "time", "random", "secrets", "socket", "os", "asyncio", "threading", "pathlib"}


def package(parts: tuple[str, ...]) -> str:
    """`wire` is four packages that know nothing of each other."""
    return "/".join(parts[:2]) if parts[0] == "wire" and len(parts) > 1 else parts[0]


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_imports_point_down() -> None:
    wrong = []
    seen = 0
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("__init__",):
            continue
        floor = FLOORS[parts[0]]
        for name in imports(path):
            words = tuple(name.split("."))
            if words[0] == "gatewayd" and len(words) > 1:
                seen += 1
                same = package(words[1:]) == package(parts)
                if not same and not FLOORS[words[1]] < floor:
                    wrong.append(f"{'/'.join(parts)} imports {name}")
            elif parts[0] == "wire" and words[0] in WIRE_FORBIDDEN:
                wrong.append(f"{'/'.join(parts)} imports {name}")
            elif words[:3] == ("twisted", "internet", "reactor") and parts[0] not in {"service", "cli"}:
                wrong.append(f"{'/'.join(parts)} imports the reactor")
    assert seen > 20
    assert not wrong, "\n".join(wrong)


def test_what_the_picture_names_is_there() -> None:
    """And each floor of the rule stands in it."""
    text = (ROOT.parent / "docs/architecture.rst").read_text()
    picture, _, prose = text.partition("One message in")
    for path in re.findall(r"``((?:\w+/)+\w+\.py)``", prose):
        assert (ROOT / path).exists() or (ROOT.parent / path).exists(), path
    for name in FLOORS:
        assert re.search(rf"\b{name}(?:/|\.py)", picture), name

"""The one form in which every benchmark prints what it found: a line of JSON on stdout."""

from __future__ import annotations

import json


def report(
    *, bench: str, work: str, ours: float, peer: str, peer_figure: float, unit: str, ratio: float, **more: float
) -> None:
    line: dict[str, str | float] = {
        "bench": bench, "work": work, "ours": round(ours, 2), "peer": peer, "peer_figure": round(peer_figure, 2),
        "unit": unit, "ratio": round(ratio, 2),
    }  # fmt: skip
    line |= {name: round(figure, 2) for name, figure in more.items()}
    print(json.dumps(line), flush=True)

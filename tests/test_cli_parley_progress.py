"""The progress bar of a large file."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from gatewayd.cli.parley.progress import Bars
from gatewayd.message.model import Part


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_for_each_file_on_a_terminal_only(terminal: bool) -> None:
    said = StringIO()
    with Bars(Console(file=said, force_terminal=terminal, width=120)) as bars:
        for octets in (0, 500_000, 1_000_000):
            bars(Part(bytes(32), "video/mp4", 1_000_000, "holi\x1b[2Jday.mp4"), octets)
        bars(Part(b"1" * 32, "video/ogg", 2_000_000), 1_000_000)
    if terminal:
        assert "holi\N{REPLACEMENT CHARACTER}[2Jday.mp4" in said.getvalue()
        assert "1.0/1.0 MB" in said.getvalue()
        assert "video/ogg" in said.getvalue()
        assert "1.0/2.0 MB" in said.getvalue()
    else:
        assert said.getvalue() == ""

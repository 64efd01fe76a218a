"""The corpus of real mail, where it lies: beside the repository, or where GATEWAYD_CORPUS says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("GATEWAYD_CORPUS", Path(__file__).parent.parent.parent / "shared" / "corpus"))


def messages() -> list[bytes]:
    """Every message, as it can go by SMTP: bare LF turned into CRLF (RFC 5321 §2.3.8); the last line ended."""
    if not ROOT.is_dir():
        pytest.skip(f"no corpus of mail at {ROOT} (set GATEWAYD_CORPUS)")
    files = [p for p in sorted(ROOT.rglob("*")) if p.suffix in {".eml", ".msg"}]
    mails = [re.sub(rb"(?<!\r)\n", b"\r\n", path.read_bytes()) for path in files]
    assert len(mails) > 400
    return [mail if mail.endswith(b"\r\n") else mail + b"\r\n" for mail in mails]

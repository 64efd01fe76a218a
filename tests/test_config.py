"""The sample loads; an error names the file, the key and what was expected."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from gatewayd.address import Domain
from gatewayd.config import Bridge, ConfigError, load
from gatewayd.interfaces.dns import Endpoint

ROOT = Path(__file__).parent.parent
SAMPLE, MANUAL = ROOT / "etc/gatewayd.toml", ROOT / "docs/operating.rst"
LEAST = 'hostname = "mx.a.test"\nstate_dir = "state"\n[tls]\ncertificate = "c.pem"\nkey = "/k.pem"\n'


def test_sample_loads() -> None:
    config = load(SAMPLE)
    assert config.hostname == Domain("mx.example.org")
    assert config.listen.smtp == (Endpoint("0.0.0.0", 25), Endpoint("::", 25))
    for said in (config.dns, config.relay, config.limits, config.incoming, config.consent):
        assert said == type(said)()  # what it shows is what holds where nothing is said


def explained(said: Any, table: dict[str, Any]) -> None:
    """The table has each key of that section, and no other."""
    assert set(table) == {field.name for field in fields(said)}
    for key, inner in table.items():
        value = getattr(said, key)
        if isinstance(value, dict):  # named by a domain each
            (value,), (inner,) = value.values(), inner.values()
        if isinstance(inner, dict):
            explained(value[0] if isinstance(value, tuple) else value, inner)


def test_the_sample_shows_every_key(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"(?m)^# (?=\[|\w+ = )", "", SAMPLE.read_text()))
    explained(load(file), tomllib.loads(file.read_text()))


def test_the_manual_names_no_key_that_is_not_there() -> None:
    config = load(SAMPLE)
    named = re.findall(r"``\[(\w+)\]\s+(\w+)", MANUAL.read_text())
    assert len(named) > 10
    for section, key in named:
        assert hasattr(getattr(config, section), key), f"[{section}] {key}"


def test_paths_bridges_and_keys(tmp_path: Path) -> None:
    file = tmp_path / "g.toml"
    file.write_text(
        LEAST + '[bridge."Old.test"]\nserver = "127.0.0.1:24"\n[dkim."a.test"]\nselector = "s"\nkey = "d.pem"\n'
        '[[dkim."b.test"]]\nselector = "r"\nkey = "r.pem"\n[[dkim."b.test"]]\nselector = "e"\nkey = "e.pem"\n'
        '[relay]\nhelo = "h.a.test"\n'
    )
    config = load(file)
    assert (config.state_dir, config.tls.key) == (tmp_path / "state", Path("/k.pem"))
    assert config.bridge == {Domain("old.test"): Bridge(server="127.0.0.1:24")}
    assert config.dkim[Domain("a.test")][0].key == tmp_path / "d.pem"
    assert [key.selector for key in config.dkim[Domain("b.test")]] == ["r", "e"]
    assert config.relay.helo == Domain("h.a.test")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[limits]\nmesage_size = 1\n", "mesage_size"),
        ('[limits]\nrecipients = "many"\n', "limits.recipients"),
        ('[listen]\nsmtp = ["25"]\n', "listen.smtp: expected address:port"),
        ('[listen]\nimap = "127.0.0.1:143"\n', "listen.imap: expected a list"),
        ('[listen]\nimap = ["::1:143"]\n', "listen.imap: expected \\[IPv6"),
        ('[bridge]\n"old.test" = 3\n', "bridge.old.test"),
        ('[bridge."old.test"]\nserver = "nowhere"\n', "bridge.old.test.server"),
        ('[bridge."old.test"]\nserver = "127.0.0.1:24"\nclients = ["x"]\n', "bridge.old.test.clients"),
        ('[relay]\nhelo = "-"\n', "relay.helo: expected a domain name"),
        ("[[", "Invalid|Expected|Cannot"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, more: str, words: str) -> None:
    file = tmp_path / "g.toml"
    file.write_text(LEAST + more)
    with pytest.raises(ConfigError, match=words) as raised:
        load(file)
    assert str(file) in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path / "none.toml")

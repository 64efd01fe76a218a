"""The sample loads; an error names the file, the key and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatewayd.address import Domain
from gatewayd.config import Bridge, ConfigError, load
from gatewayd.interfaces.dns import Endpoint

SAMPLE = Path(__file__).parent.parent / "etc/gatewayd.toml"
LEAST = 'hostname = "mx.a.test"\nstate_dir = "state"\n[tls]\ncertificate = "c.pem"\nkey = "/k.pem"\n'


def test_sample_loads() -> None:
    config = load(SAMPLE)
    assert config.hostname == Domain("mx.example.org")
    assert config.listen.smtp == (Endpoint("0.0.0.0", 25), Endpoint("::", 25))
    assert config.relay.give_up == 432000


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

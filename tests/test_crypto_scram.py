from __future__ import annotations

from base64 import b64decode

import pytest

from gatewayd.crypto.scram import Keys, ScramClient, ScramError, ScramServer, derive, saslprep

SALT = b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
EXPORTER = bytes(range(32))


def test_rfc_7677_example() -> None:
    client = ScramClient("user", "pencil", "rOprNGfwEbeRWgbNEkqO")
    server = ScramServer("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", b"", plus=False)
    assert client.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    assert server.first(client.first()) == "user"
    final = client.final(server.challenge(SALT, 4096))
    assert final == FINAL
    verdict = server.final(final, *derive("pencil", SALT, 4096))
    assert verdict == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    client.check(verdict)


def exchange(password: str = "pw", there: bytes = EXPORTER, plus: bool = True, keys: Keys | None = None) -> bytes:
    client = ScramClient("a=b,c@x.example", password, "abc", EXPORTER)
    server = ScramServer("def", there, plus=plus)
    assert server.first(client.first()) == "a=b,c@x.example"
    verdict = server.final(client.final(server.challenge(SALT, 4096)), *(keys or derive("pw", SALT, 4096)))
    client.check(verdict)
    return verdict


def test_plus_binds_to_the_connection() -> None:
    exchange()
    with pytest.raises(ScramError, match="channel-bindings-dont-match"):
        exchange(there=bytes(32))


def test_wrong_password() -> None:
    with pytest.raises(ScramError, match="invalid-proof"):
        exchange("other")


def test_the_server_must_know_the_password_too() -> None:
    with pytest.raises(ScramError, match="invalid-proof"):
        exchange(keys=Keys(derive("pw", SALT, 4096).stored_key, bytes(32)))


@pytest.mark.parametrize(
    ("message", "plus", "exporter"),
    [
        (b"y,,n=u,r=abc", False, EXPORTER),  # downgrade
        (b"n,,n=u,r=abc", True, EXPORTER),
        (b"p=tls-unique,,n=u,r=abc", True, EXPORTER),
        (b"p=tls-exporter,,n=u,r=abc", False, b""),
        (b"n,,m=x,n=u,r=abc", False, b""),
        (b"n,,n=u=20,r=abc", False, b""),
        (b"n,a=other,n=u,r=abc", False, b""),
        (b"n,,n=u", False, b""),
        (b"n,,n=u,r=", False, b""),
        (b"\xff", False, b""),
        (b"n" * 5000, False, b""),
    ],
)
def test_bad_first_messages(message: bytes, plus: bool, exporter: bytes) -> None:
    with pytest.raises(ScramError):
        ScramServer("def", exporter, plus=plus).first(message)


@pytest.mark.parametrize(
    "challenge", [b"r=abc,s=AA==,i=4096", b"r=xabcdef,s=AA==,i=4096", b"r=abcdef,s=AA==,i=1", b"x"]
)
def test_client_refuses_bad_challenges(challenge: bytes) -> None:
    with pytest.raises(ScramError):
        ScramClient("u", "p", "abc").final(challenge)


def test_saslprep_examples_of_rfc_4013() -> None:
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("\u00aa") == "a"
    assert saslprep("\u2168") == "IX"
    for bad in ("\x07", "\u06271"):
        with pytest.raises(ValueError):
            saslprep(bad)

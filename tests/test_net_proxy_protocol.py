"""The PROXY header: read strictly, from those who have to send it only."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.world import Gateway
from gatewayd.net.proxy_protocol import Header, ProxyError, read
from tests.smtp_talk import TIMEOUT, Mailbox, Talk

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(body)) + body


V4 = version_2(1, 0x11, bytes([192, 0, 2, 1, 198, 51, 100, 1]) + struct.pack("!HH", 5000, 25) + b"\3\0\4abcd")
V6 = version_2(1, 0x21, ipaddress.ip_address("2001:db8::1").packed * 2 + struct.pack("!HH", 5000, 25))
GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\n", "192.0.2.1"),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 25\r\n", "2001:db8::1"),
    (b"PROXY UNKNOWN\r\n", None), (b"PROXY UNKNOWN ff::1 a b c\r\n", None), (V4, "192.0.2.1"), (V6, "2001:db8::1"),
    (version_2(0, 0, b""), None), (version_2(0, 0x11, b"x" * 12), None), (version_2(1, 0x31, b"\0" * 216), None),
]  # fmt: skip


@pytest.mark.parametrize(("octets", "address"), GOOD, ids=lambda value: repr(value)[:30])
def test_good_headers_in_any_pieces(octets: bytes, address: str | None) -> None:
    assert read(octets + b"EHLO x\r\n") == Header(address, 5000 if address else 0, len(octets))
    for end in range(1, len(octets)):
        assert read(octets[:end]) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO x\r\n", b"P\r\n", b"PROXY\r\n", b"PROXY TCP4 192.0.2.1 198.51.100.1 5000\r\n", b"\r\nEHLO x\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 5000 25\r\n", b"PROXY TCP4 192.0.2.1 198.51.100.1 99999 25\r\n",
        b"PROXY TCP4 192.0.2.1 x 5000 25\r\n", b"PROXY UDP4 192.0.2.1 198.51.100.1 5000 25\r\n", b"PROXY " + b"x" * 120,
        b"PROXY TCP4 192.0.2.1  198.51.100.1 5000 25\r\n", b"PROXY UNKNOWNS\r\n", SIGNATURE + b"\x11\x11\0\0",
        SIGNATURE + b"\x22\x11\0\0", version_2(1, 0x11, b"x" * 11), SIGNATURE + b"\x21\x11\xff\xff",
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_bad_headers(octets: bytes) -> None:
    with pytest.raises(ProxyError):
        read(octets)


@given(st.binary(min_size=1, max_size=200), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE]))
def test_any_octets_are_a_header_or_none(octets: bytes, begin: bytes) -> None:
    try:
        header = read(begin + octets)
    except ProxyError:
        return
    assert header is None or header.size <= len(begin + octets)


# -- over real sockets: 127.0.70.20 is a proxy, others are not ------------------------------------------------------


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"), "alpha.test", "127.0.70.7", ["alice", "bob"], 9)
    more = '\n[incoming]\nexamine = false\nsenders_exist = false\nproxies = ["127.0.70.20/32"]\n'
    more += "[limits]\nconnections_per_address = 3\n"
    made.config.write_text(made.config.read_text() + more)
    made.start()
    yield made
    made.stop()


def proxied(gateway: Gateway, service: str, header: bytes) -> Any:
    made = socket.create_connection(gateway.port(service), TIMEOUT, ("127.0.70.20", 0))
    made.sendall(header)
    return made


def by(gateway: Gateway, header: bytes, service: str = "smtp") -> Talk:
    """A client behind the proxy."""
    talk = Talk(gateway, service, connected=proxied(gateway, service, header), tls=service == "submissions")
    talk.do("EHLO client.test")
    return talk


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.1 127.0.70.7 5000 25\r\n", V4])
def test_the_clients_address_is_what_counts(gateway: Gateway, header: bytes) -> None:
    with by(gateway, header) as talk, Mailbox(gateway, "bob@alpha.test") as bob:
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], b"Subject: x\r\n\r\nx").startswith("250")
        talk.start_tls()
        talk.do("EHLO client.test")
        assert talk.send("x@elsewhere.test", ["bob@alpha.test"], b"Subject: x\r\n\r\nx").startswith("250")
        plain, secure = bob.wait(2)
        assert b"Received: from client.test ([192.0.2.1])\r\n\tby" in plain
        assert b"Received: from client.test ([192.0.2.1])\r\n\t(TLSv1.3" in secure
        bob.clear()


def test_implicit_tls_comes_after_the_header(gateway: Gateway) -> None:
    with by(gateway, V6, "submissions") as talk, Mailbox(gateway, "bob@alpha.test") as bob:
        talk.sign_in()
        mail = b"From: alice@alpha.test\r\nSubject: x\r\n\r\nx"
        assert talk.send("alice@alpha.test", ["bob@alpha.test"], mail).startswith("250")
        assert b"([IPv6:2001:db8::1])" in bob.wait(1)[0]
        bob.clear()


def test_limits_count_clients_and_not_the_proxy(gateway: Gateway) -> None:
    one = b"PROXY TCP4 192.0.2.7 127.0.70.7 5000 25\r\n"
    kept = [by(gateway, one) for _ in range(3)]
    refused = proxied(gateway, "smtp", one)
    with pytest.raises(ConnectionError):
        assert refused.recv(10) == b""
        raise ConnectionError
    by(gateway, one.replace(b".7 ", b".8 ", 1)).close()
    for talk in kept:
        talk.close()


def test_who_is_no_proxy_and_who_is(gateway: Gateway) -> None:
    with Talk(gateway) as talk:
        assert talk.do("PROXY TCP4 192.0.2.1 127.0.70.7 5000 25").startswith("500")
    for octets in (b"EHLO client.test\r\n", b"PROXY nonsense\r\n"):
        refused = proxied(gateway, "smtp", octets)
        try:
            assert refused.recv(10) == b""  # not even a banner
        except ConnectionResetError:
            pass
    assert "does not begin with a PROXY header" in (gateway.root / "gatewayd.log").read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_says_whose_connection_it_is(gateway: Gateway, tmp_path: Path) -> None:
    """Of what it writes the source is its own address, the proxy's: what counts is that the header is understood."""
    (tmp_path / "mail").write_bytes(b"Subject: by curl\r\n\r\nx\r\n")
    host, port = gateway.port("smtp")
    with Mailbox(gateway, "bob@alpha.test") as bob:
        subprocess.run(
            [
                "curl", "--silent", "--show-error", "--haproxy-protocol", "--interface", "127.0.70.20",
                f"smtp://{host}:{port}", "--mail-from", "x@elsewhere.test", "--mail-rcpt", "bob@alpha.test",
                "--upload-file", tmp_path / "mail",
            ],
            check=True, timeout=60,
        )  # fmt: skip
        assert b"([127.0.70.20])" in bob.wait(1)[0]
        bob.clear()

"""Whom an IP address is counted with, and which networks it is in."""

from __future__ import annotations

from ipaddress import ip_network

from gatewayd.core.networks import around, within


def test_who_is_taken_for_one_client() -> None:
    assert around("192.0.2.1") == around("192.0.2.254") == "192.0.2.0/24"
    assert around("2001:db8::1") == around("2001:db8::ffff:1%eth0") == "2001:db8::/64"
    assert around("") == "/" and around("/run/socket") == "/run/socket/"


def test_what_is_no_address_is_in_no_network() -> None:
    networks = [ip_network("192.0.2.0/25"), ip_network("fe80::/10")]
    assert within("192.0.2.1", networks) and within("fe80::1%eth0", networks)
    assert not any(within(address, networks) for address in ("192.0.2.128", "::1", "", "localhost"))

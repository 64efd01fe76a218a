"""Signing in: by the right password only, and nobody learns which users there are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred

from gatewayd.address import Address, Domain
from gatewayd.core.authentication import ITERATIONS, Authenticator
from gatewayd.crypto.scram import derive
from gatewayd.errors import StoreError
from gatewayd.interfaces.authentication import AuthenticationFailed
from gatewayd.interfaces.records import Account, ScramCredentials
from tests.test_store_sqlite import ALICE, Stores

PASSWORD, SALT = "pencil ☃", b"sixteen octets.."
KEYS = derive(PASSWORD, SALT, ITERATIONS)
CREDENTIALS = ScramCredentials(SALT, ITERATIONS, KEYS.stored_key, KEYS.server_key)


class Door(Stores):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.derived: list[tuple[Any, ...]] = []
        self.loop.one(self.store.set_credentials(self.alice, CREDENTIALS))
        self.authenticator = self.made(b"secret")

    def made(self, secret: bytes) -> Authenticator:
        async def in_thread(function: Any, *arguments: Any) -> Any:
            self.derived.append(arguments)
            return await maybeDeferred(function, *arguments)

        return Authenticator(self.store, derive, in_thread, secret)

    def sign_in(self, user: str, password: str = PASSWORD) -> Account:
        account: Account = self.loop.one(self.authenticator.password(user, password))
        return account

    def scram(self, user: str) -> tuple[Account | None, ScramCredentials]:
        answer: tuple[Account | None, ScramCredentials] = self.loop.one(self.authenticator.scram(user))
        return answer


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    made = Door(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("user", ["alice@alpha.test", "Alice@ALPHA.test", "alice", "ALICE"])
def test_the_right_password(door: Door, user: str) -> None:
    assert door.sign_in(user) == Account(door.alice, ALICE)
    assert door.scram(user) == (Account(door.alice, ALICE), CREDENTIALS)


@pytest.mark.parametrize("password", ["", "pencil", "pencil ☃ ", "wrong", "control \x00 characters", "\u0627a"])
def test_a_wrong_password(door: Door, password: str) -> None:
    """Those that SASLprep prohibits too."""
    for user in ("alice", "nobody"):
        with pytest.raises(AuthenticationFailed) as failed:
            door.sign_in(user, password)
        assert str(failed.value) == ""


@pytest.mark.parametrize("user", ["nobody", "nobody@alpha.test", "alice@beta.test", "", "@", "a b", "\ud800"])
def test_an_unknown_user_costs_and_shows_the_same(door: Door, user: str) -> None:
    with pytest.raises(AuthenticationFailed):
        door.sign_in(user)
    ((password, salt, iterations),) = door.derived
    assert (password, len(salt), iterations) == (PASSWORD, len(SALT), ITERATIONS)
    account, made_up = door.scram(user)
    assert account is None
    assert len(made_up.stored_key) == len(made_up.server_key) == 32
    assert door.scram(user) == (None, made_up)
    assert door.loop.one(door.made(b"secret").scram(user)) == (None, made_up)
    assert door.loop.one(door.made(b"another").scram(user))[1].salt != made_up.salt
    assert door.scram("somebody else")[1].salt != made_up.salt


def test_an_unknown_user_is_the_same_however_written(door: Door) -> None:
    """As a known one is: else two spellings with two salts would tell that there is no such user."""
    salts = {door.scram(user)[1].salt for user in ("nobody", "NOBODY", "nobody@alpha.test", "Nobody@Alpha.Test.")}
    assert len(salts) == 1


def test_a_bare_name_with_several_domains_is_nobodys(door: Door) -> None:
    door.loop.one(door.store.add_domain(Domain.parse("beta.test")))
    door.loop.one(door.store.add_account(Address.parse("alice@beta.test"), CREDENTIALS))
    with pytest.raises(AuthenticationFailed):
        door.sign_in("alice")
    assert door.sign_in("alice@alpha.test").address == ALICE


def test_a_new_password_replaces_the_old(door: Door) -> None:
    keys = derive("new", SALT, ITERATIONS)
    new = ScramCredentials(SALT, ITERATIONS, keys.stored_key, keys.server_key)
    door.loop.one(door.store.set_credentials(door.alice, new))
    assert door.sign_in("alice", "new").account_id == door.alice
    with pytest.raises(AuthenticationFailed):
        door.sign_in("alice", PASSWORD)


def test_the_keys_of_another_user_do_not_open(door: Door) -> None:
    bob = door.loop.one(door.store.add_account(Address.parse("bob@alpha.test"), ScramCredentials(SALT, 4096, b"", b"")))
    for password in ("", PASSWORD):
        with pytest.raises(AuthenticationFailed):
            door.sign_in("bob", password)
    assert door.scram("bob")[0] == bob


def test_a_store_that_cannot_tell_is_no_wrong_password(door: Door) -> None:
    door.close()
    with pytest.raises(StoreError):
        door.sign_in("alice")

"""`parley login`, `logout`, `accounts`: who the user is, where the server is, and the password, kept in the system's
keyring, or where there is none in a file that only its owner can read."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gatewayd.address import Address, AddressError, Domain
from gatewayd.client import ParleyClient
from gatewayd.client.archive import Archive
from gatewayd.client.device import Device
from gatewayd.config import endpoint
from gatewayd.wire.parley.connection import ParleyConnection

KEYRING = "parley"  # the service's name there


class Failed(Exception):
    """Ends the command with one line that says why, and an exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class Account(msgspec.Struct, omit_defaults=True):
    """What is kept of one."""

    server: str = ""  # HOST:PORT, or "": as the DNS says
    ca: str = ""  # a PEM file, or "": the system's authorities
    password: str = ""  # only where there is no keyring


class Accounts(msgspec.Struct, omit_defaults=True):
    """The file `accounts.json`."""

    default: str = ""
    accounts: dict[str, Account] = {}

    @classmethod
    def load(cls) -> Accounts:
        """Raises Failed."""
        path = _file()
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls()
        except (OSError, msgspec.DecodeError) as error:
            raise Failed(f"{path}: {error}") from None

    def save(self) -> None:
        """Whole or not at all; never readable by others. Raises OSError."""
        path = _file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
        partial.replace(path)


def _home(variable: str, default: str) -> Path:
    """Of the XDG Base Directory Specification: a relative path is not followed."""
    text = os.environ.get(variable, "")
    return (Path(text) if Path(text).is_absolute() else Path.home() / default) / "parley"


def _file() -> Path:
    return _home("XDG_CONFIG_HOME", ".config") / "accounts.json"


class Identity:
    """Who asks, for one command: the options first, then the environment, then what `login` kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Raises Failed, AddressError, ValueError."""
        kept = Accounts.load()
        user = options.user or os.environ.get("PARLEY_USER") or kept.default
        if not user:
            raise Failed("who are you? parley login, or --user name@domain")
        self.user = str(Address.parse(user))
        self.account = kept.accounts.get(self.user, Account())
        server = options.server or self.account.server
        authorities = options.ca or (Path(self.account.ca) if self.account.ca else None)
        self.where: dict[str, Any] = {
            "server": endpoint(server) if server else None,
            "authorities": authorities,
            "engine": _engine(options.trace),
        }
        self.path = _home("XDG_DATA_HOME", ".local/share") / f"{self.user.replace('/', '_')}.sqlite"

    def where_is(self, domain: Domain) -> dict[str, Any]:
        """Of our own domain what the options say, of others what the DNS says."""
        return self.where if domain == Address.parse(self.user).domain else {**self.where, "server": None}

    def password(self) -> str:
        """The environment's, the kept one, else it is asked for."""
        kept = os.environ.get("PARLEY_PASSWORD") or self.account.password or _from_keyring(self.user)
        return kept or asked_password(self.user)

    def client(self, reactor: Any) -> ParleyClient:
        """Not dialled yet."""
        return ParleyClient(reactor, self.user, self.password(), **self.where)

    def archive(self, reactor: Any) -> Archive:
        """Raises StoreError."""
        return Archive(self.path, self.user, reactor.callFromThread)

    def device(self, reactor: Any) -> Device:
        """Not dialled yet. Raises StoreError."""
        return Device(reactor, self.client(reactor), self.archive(reactor))


async def signed_in(reactor: Any, options: argparse.Namespace) -> ParleyClient:
    """For a command that only asks. Raises Failed, RequestFailed, OSError, ValueError."""
    parley = Identity(options).client(reactor)
    await parley.online()
    return parley


# -- the commands ---------------------------------------------------------------------------------------------------


async def login(reactor: Any, options: argparse.Namespace) -> None:
    options.user = options.address or options.user or _asked("Address: ")
    who = Identity(options)
    password = os.environ.get("PARLEY_PASSWORD") or asked_password(who.user)
    async with ParleyClient(reactor, who.user, password, **who.where) as parley:
        await parley.online()
    kept = Accounts.load()
    account = Account(options.server or who.account.server, str(options.ca.resolve()) if options.ca else who.account.ca)
    if not _to_keyring(who.user, password):
        account.password = password
        print(f"parley: no keyring here; the password is kept in {_file()} (only you can read it)", file=sys.stderr)
    kept.accounts[who.user] = account
    kept.default = who.user
    kept.save()
    print(f"{who.user} is signed in, and the default account")


def _asked(prompt: str) -> str:
    try:
        return input(prompt).strip() if sys.stdin.isatty() else ""
    except EOFError:
        return ""


def asked_password(user: str) -> str:
    """On the terminal only. Raises Failed."""
    try:
        if sys.stdin.isatty():
            return getpass.getpass(f"Password of {user}: ")
    except EOFError:
        pass
    raise Failed(f"the password of {user} is not known: parley login on a terminal, or PARLEY_PASSWORD")


def address(text: str) -> str:
    """The type of an argument."""
    try:
        return str(Address.parse(text.strip()))
    except AddressError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: {error}") from None


def _engine(trace: bool) -> Callable[[], ParleyConnection]:
    if not trace:
        return ParleyConnection
    from gatewayd.cli.parley.trace import Traced

    return Traced


async def logout(reactor: Any, options: argparse.Namespace) -> None:
    options.user = options.address or options.user
    who = Identity(options)
    kept = Accounts.load()
    if kept.accounts.pop(who.user, None) is None:
        raise Failed(f"{who.user} is not signed in")
    _out_of_keyring(who.user)
    if kept.default == who.user:
        kept.default = next(iter(kept.accounts), "")
    kept.save()
    if options.forget:
        for suffix in ("", "-wal", "-shm"):
            who.path.with_name(who.path.name + suffix).unlink(missing_ok=True)
    elif who.path.exists():
        print(f"parley: its messages stay in {who.path} (--forget deletes them)", file=sys.stderr)


async def accounts(reactor: Any, options: argparse.Namespace) -> None:
    kept = Accounts.load()
    if options.address:
        who = options.address
        if who not in kept.accounts:
            raise Failed(f"{who} is not signed in")
        kept.default = who
        kept.save()
    for user, account in kept.accounts.items():
        if options.json:
            print(json.dumps({"address": user, "default": user == kept.default, "server": account.server}))
        else:
            print(user + (" (default)" if user == kept.default else ""))


def add_commands(commands: Any) -> None:
    for run, text in (
        (login, "sign in, and keep the password; with --server and --ca, those too"),
        (logout, "keep the password no longer"),
        (accounts, "list those that are signed in; with an address, make it the default"),
    ):
        parser = commands.add_parser(run.__name__, help=text)
        parser.add_argument("address", nargs="?", type=address, help="name@domain")
        if run is logout:
            parser.add_argument("--forget", action="store_true", help="delete the messages kept here, too")
        if run is accounts:
            parser.add_argument("--json", action="store_true", help="a line of JSON for each")
        parser.set_defaults(run=run)


# -- the keyring ----------------------------------------------------------------------------------------------------


def _from_keyring(user: str) -> str:
    import keyring.errors  # only where it is needed: it looks for what the system has

    try:
        return keyring.get_password(KEYRING, user) or ""
    except keyring.errors.KeyringError:  # none, or it is locked
        return ""


def _to_keyring(user: str, password: str) -> bool:
    """Whether there is one that keeps it."""
    import keyring.errors

    try:
        keyring.set_password(KEYRING, user, password)
        return keyring.get_password(KEYRING, user) == password  # the null keyring takes all and keeps nothing
    except keyring.errors.KeyringError:
        return False


def _out_of_keyring(user: str) -> None:
    import keyring.errors

    try:
        keyring.delete_password(KEYRING, user)
    except keyring.errors.KeyringError:
        return

"""The program `parley` at two domains, with gateways that are processes of their own: what one does, the other sees."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.world import PASSWORD, Reactor, World, ctl
from gatewayd.client import ParleyClient, compose
from gatewayd.client.archive import Archive
from gatewayd.client.conversation import Said
from gatewayd.client.device import Device
from gatewayd.interfaces.dns import Endpoint
from tests.test_cli_parley import Home, no_keyring

__all__ = ["no_keyring"]  # it is used by all that is here

ALICE, BOB = "alice@alpha.test", "bob@beta.test"
PATIENCE = 20  # seconds for what has to come from the other domain


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    addresses = {"alpha.test": "127.0.0.64", "beta.test": "127.0.0.65"}
    made = World(tmp_path_factory.mktemp("world"), addresses, {}, ["alice", "bob"])
    made.start()
    yield made
    made.stop()


def home(world: World, root: Path, user: str) -> Home:
    name, _, domain = user.partition("@")
    (root / name).mkdir()
    made = Home(root / name, world.gateways[domain], world.reactor.reactor)
    made.login(user)
    return made


def last(home: Home, type: str) -> dict[str, Any]:
    """What came last, when it is of that type."""
    deadline = time.monotonic() + PATIENCE
    while (found := home.inbox()[-1:]) == [] or found[0]["type"] != type:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found[0]


def test_edits_retractions_and_reactions(world: World, tmp_path: Path) -> None:
    """With a file that is too large for one frame, which the edit keeps."""
    alice, bob = home(world, tmp_path, ALICE), home(world, tmp_path, BOB)
    alice.run("grant", BOB)
    bob.run("grant", ALICE)
    (alice.root / "map.bin").write_bytes(b"map" * 100_000)
    alice.run("send", BOB, "--subject", "Where", "--file", "map.bin", "At the brigde")
    original = last(bob, "message")
    alice.run("edit", str(original["id"])[:12], "At the bridge")
    edit = last(bob, "edit")
    assert (edit["replaces"], edit["subject"], edit["files"]) == (original["id"], "Where", ["map.bin"])
    assert bob.run("save", edit["uid"]).stdout == "map.bin\n"
    assert (bob.root / "map.bin").read_bytes() == b"map" * 100_000
    bob.run("react", original["uid"], "\N{THUMBS UP SIGN}")
    assert last(alice, "reaction")["answers"] == original["id"]
    shown = bob.run("inbox").stdout
    assert "edited)  Where\n  At the bridge\n  [map.bin, 300000 octets]\n  \N{THUMBS UP SIGN} bob@beta.test\n" in shown
    alice.run("retract", original["id"])
    assert last(bob, "retract")["replaces"] == original["id"]
    assert "  (taken back by its author)\n" in bob.run("inbox").stdout


def test_what_the_other_domain_refused(world: World, tmp_path: Path) -> None:
    """The report stands at the message that it is about. When it is sent again the report is put away."""
    reactor: Reactor = world.reactor
    nobody = "late@beta.test"

    def make() -> Device:
        where = world.gateways["alpha.test"]
        parley = ParleyClient(
            reactor.reactor, ALICE, PASSWORD, server=Endpoint(*where.port("parley")), authorities=where.root / "ca.pem"
        )
        return Device(reactor.reactor, parley, Archive(tmp_path / "alice", ALICE, reactor.reactor.callFromThread))

    device = reactor.call(make)

    def shown(condition: Callable[[Said], bool]) -> Said:
        deadline = time.monotonic() + PATIENCE
        while True:
            reactor.wait(device.sync())
            found = reactor.wait(device.conversation(nobody, 1))
            if found and condition(found[0]):
                return found[0]
            assert time.monotonic() < deadline, found
            time.sleep(0.1)

    draft = compose(ALICE, [nobody], "Are you there yet?", now=time.time())
    assert [result.code for result in reactor.wait(device.send(draft.to, draft))] == ["2.0.0"]
    said = shown(lambda said: bool(said.reports))
    assert said.undelivered[nobody].startswith("5.1.1 ")
    assert [one.name for one in reactor.wait(device.conversations()) if one.refused] == [nobody]
    config = world.gateways["beta.test"].config
    assert ctl("--config", config, "account", "add", nobody, "--password-stdin", stdin=PASSWORD).returncode == 0
    assert [result.code for result in reactor.wait(device.send_again(draft.id))] == ["2.0.0"]
    assert shown(lambda said: not said.reports).undelivered == {}
    assert reactor.wait(device.archive.reported()) == []
    late = home(world, tmp_path, nobody)
    deadline = time.monotonic() + PATIENCE
    while not (found := late.inbox("--mailbox", "Introductions")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [message["text"] for message in found] == ["Are you there yet?"]
    reactor.call(device.close)


def test_reports_in_the_outbox(world: World, tmp_path: Path) -> None:
    alice = home(world, tmp_path, ALICE)
    sent = json.loads(alice.run("send", "--json", "never@beta.test", "Hello").stdout)
    deadline = time.monotonic() + PATIENCE
    while not (failed := (alice.run("sync"), alice.run("outbox", "--json"))[1].stdout):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    line = json.loads(failed)
    assert (line["id"], line["state"], line["to"]) == (sent["id"], "failed", ["never@beta.test"])
    assert line["why"]["never@beta.test"].startswith("5.1.1 ")
    alice.run("outbox", "--again", sent["id"][:8])
    while not (failed := (alice.run("sync"), alice.run("outbox", "--json"))[1].stdout):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again = json.loads(failed)["id"]
    assert again != sent["id"]  # and the first report is put away
    assert alice.run("outbox", "--cancel", again).stdout == ""

"""Aliases inside a transaction. They belong to domains, not to accounts; an empty local part is the catch-all."""

from __future__ import annotations

import sqlite3

from gatewayd.address import Address, Domain


def domains(db: sqlite3.Connection) -> frozenset[Domain]:
    return frozenset(Domain(name) for (name,) in db.execute("SELECT DISTINCT domain FROM alias"))


def targets(db: sqlite3.Connection, alias: Address) -> tuple[Address, ...]:
    query = "SELECT target FROM alias WHERE local=? AND domain=? ORDER BY target"
    return tuple(Address.parse(target) for (target,) in db.execute(query, alias.key))


def every(db: sqlite3.Connection) -> list[tuple[Address, Address]]:
    found = db.execute("SELECT address, domain, target FROM alias ORDER BY domain, local, target")
    return [(Address.parse(a) if a else Address("", Domain(domain)), Address.parse(to)) for a, domain, to in found]


def add(db: sqlite3.Connection, alias: Address, target: Address) -> None:
    row = (*alias.key, str(target), str(alias) if alias.local else "")
    db.execute("INSERT OR IGNORE INTO alias (local, domain, target, address) VALUES (?,?,?,?)", row)


def remove(db: sqlite3.Connection, alias: Address, target: Address | None) -> int:
    if target is None:
        return db.execute("DELETE FROM alias WHERE local=? AND domain=?", alias.key).rowcount
    key = (*alias.key, str(target))
    return db.execute("DELETE FROM alias WHERE local=? AND domain=? AND target=?", key).rowcount

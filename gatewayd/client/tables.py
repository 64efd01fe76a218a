"""The tables of the file that a device keeps of an account (archive.py, outbox.py)."""

from __future__ import annotations

STEPS = [
    """
    CREATE TABLE log (one INTEGER PRIMARY KEY CHECK (one = 1), modseq INTEGER NOT NULL);
    INSERT INTO log VALUES (1, 0);
    CREATE TABLE object (
        id BLOB PRIMARY KEY, signed BLOB NOT NULL, date INTEGER NOT NULL, conversation TEXT NOT NULL) WITHOUT ROWID;
    CREATE INDEX object_conversation ON object (conversation, date);
    CREATE TABLE part (
        id BLOB NOT NULL, hash BLOB NOT NULL, type TEXT NOT NULL, PRIMARY KEY (id, hash)) WITHOUT ROWID;
    CREATE INDEX part_hash ON part (hash);
    CREATE TABLE body (hash BLOB PRIMARY KEY, octets BLOB NOT NULL);
    CREATE TABLE entry (
        mailbox TEXT NOT NULL, uid INTEGER NOT NULL, modseq INTEGER NOT NULL, flags TEXT NOT NULL, id BLOB NOT NULL,
        PRIMARY KEY (mailbox, uid)) WITHOUT ROWID;
    CREATE INDEX entry_object ON entry (id);
    CREATE INDEX entry_unseen ON entry (mailbox) WHERE instr(flags, '\\Seen') = 0;
    CREATE TABLE receipt (
        of BLOB NOT NULL, recipient TEXT NOT NULL, status TEXT NOT NULL, at REAL NOT NULL, signed INTEGER NOT NULL,
        PRIMARY KEY (of, recipient, status)) WITHOUT ROWID;
    CREATE TABLE contact (
        address TEXT PRIMARY KEY, state TEXT NOT NULL, since INTEGER NOT NULL, modseq INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, recipients TEXT NOT NULL, payload BLOB NOT NULL,
        bodies BLOB NOT NULL, trouble TEXT NOT NULL DEFAULT '');
    CREATE TABLE undelivered (
        id BLOB NOT NULL, recipient TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (id, recipient)) WITHOUT ROWID;
    CREATE TABLE key_set (domain TEXT PRIMARY KEY, octets BLOB NOT NULL, fetched REAL NOT NULL) WITHOUT ROWID
    """,
    # What an object is about, and what is searched of it. What is here has neither, so the log is asked for all anew.
    """
    CREATE TABLE link (
        about BLOB NOT NULL, id BLOB NOT NULL, kind TEXT NOT NULL, PRIMARY KEY (about, id)) WITHOUT ROWID;
    CREATE INDEX link_id ON link (id);
    CREATE TABLE words (id BLOB PRIMARY KEY, folded TEXT NOT NULL);
    DELETE FROM object; DELETE FROM part; DELETE FROM body; DELETE FROM entry; DELETE FROM receipt; DELETE FROM contact;
    UPDATE log SET modseq=0
    """,
    # Which mailbox has which name: again, only the log from its beginning tells of those that are there.
    """
    CREATE TABLE IF NOT EXISTS mailbox (uidvalidity INTEGER PRIMARY KEY, name TEXT NOT NULL);
    DELETE FROM object; DELETE FROM part; DELETE FROM body; DELETE FROM entry; DELETE FROM receipt; DELETE FROM contact;
    DELETE FROM link; DELETE FROM words; DELETE FROM mailbox;
    UPDATE log SET modseq=0
    """,
    "ALTER TABLE log ADD COLUMN epoch BLOB NOT NULL DEFAULT x''",
    "CREATE INDEX link_reports ON link (id) WHERE kind='reports'",
    # A copy from before there were epochs may be of a log that is no more: it begins anew, as in pages.py.
    """
    INSERT INTO entry SELECT '\\Kept', row_number() OVER (), 0, '\\Seen', id FROM (
        SELECT DISTINCT e.id FROM entry e, log WHERE epoch=x'' AND log.modseq > 0
        AND mailbox NOT IN ('Junk', 'Trash', 'Introductions', 'Receipts'));
    DELETE FROM entry WHERE mailbox != '\\Kept' AND (SELECT epoch FROM log)=x'';
    DELETE FROM contact WHERE (SELECT epoch FROM log)=x'';
    DELETE FROM mailbox WHERE (SELECT epoch FROM log)=x'';
    UPDATE log SET modseq=0 WHERE epoch=x''
    """,
    "ALTER TABLE undelivered ADD COLUMN at INTEGER NOT NULL DEFAULT 0",  # seconds since 1970
]
ANSWERS, REPLACES, REACTS, REPORTS, DELAYS = "answers", "replaces", "reacts", "reports", "delays"  # kinds of links

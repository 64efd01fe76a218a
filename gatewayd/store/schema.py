"""The tables of the store. account_id comes first in every key, and no transaction spans accounts (DESIGN §4)."""

from gatewayd.interfaces.records import RECEIPTS

MESSAGE_KEY = "(account_id<<32)+message_id"

STEPS = [
    """
    CREATE TABLE domain (name TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE account (
        account_id INTEGER PRIMARY KEY AUTOINCREMENT,
        local TEXT NOT NULL, domain TEXT NOT NULL, address TEXT NOT NULL,
        salt BLOB NOT NULL, iterations INTEGER NOT NULL, stored_key BLOB NOT NULL, server_key BLOB NOT NULL,
        modseq INTEGER NOT NULL DEFAULT 1,
        uidvalidity INTEGER NOT NULL DEFAULT 1,
        next_message INTEGER NOT NULL DEFAULT 1,
        next_mailbox INTEGER NOT NULL DEFAULT 1,
        UNIQUE (local, domain));
    CREATE TABLE mailbox (
        account_id INTEGER NOT NULL, mailbox_id INTEGER NOT NULL, name TEXT NOT NULL, special_use TEXT,
        uidvalidity INTEGER NOT NULL, uidnext INTEGER NOT NULL DEFAULT 1,
        highest_modseq INTEGER NOT NULL, subscribed INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (account_id, mailbox_id), UNIQUE (account_id, name)) WITHOUT ROWID;
    CREATE TABLE message (
        account_id INTEGER NOT NULL, message_id INTEGER NOT NULL, object_id BLOB NOT NULL,
        protected BLOB NOT NULL, payload BLOB NOT NULL, signature BLOB NOT NULL,
        trace BLOB NOT NULL, bodies BLOB NOT NULL, blobs BLOB NOT NULL,
        size INTEGER, envelope BLOB, bodystructure BLOB, body BLOB,
        PRIMARY KEY (account_id, message_id));
    CREATE TABLE entry (
        account_id INTEGER NOT NULL, mailbox_id INTEGER NOT NULL, uid INTEGER NOT NULL, message_id INTEGER NOT NULL,
        modseq INTEGER NOT NULL, flags TEXT NOT NULL, internal_date_ms INTEGER NOT NULL,
        PRIMARY KEY (account_id, mailbox_id, uid)) WITHOUT ROWID;
    CREATE INDEX entry_log ON entry (account_id, modseq);
    CREATE INDEX entry_message ON entry (account_id, message_id);
    CREATE TABLE expunged (
        account_id INTEGER NOT NULL, modseq INTEGER NOT NULL, mailbox_id INTEGER NOT NULL, uid INTEGER NOT NULL,
        PRIMARY KEY (account_id, modseq, mailbox_id, uid)) WITHOUT ROWID;
    CREATE TABLE seen (
        account_id INTEGER NOT NULL, object_id BLOB NOT NULL, mailbox TEXT NOT NULL,
        uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL, modseq INTEGER NOT NULL, seen_at INTEGER NOT NULL,
        PRIMARY KEY (account_id, object_id, mailbox)) WITHOUT ROWID;
    CREATE INDEX seen_age ON seen (seen_at);
    CREATE TABLE peer (
        domain TEXT PRIMARY KEY, parley_until REAL NOT NULL, keys BLOB, keys_until REAL NOT NULL) WITHOUT ROWID
    """,
    """
    CREATE TABLE seen_in (
        account_id INTEGER NOT NULL, object_id BLOB NOT NULL, mailbox_id INTEGER NOT NULL,
        uidvalidity INTEGER NOT NULL, uid INTEGER NOT NULL, modseq INTEGER NOT NULL, seen_at INTEGER NOT NULL,
        PRIMARY KEY (account_id, object_id, mailbox_id)) WITHOUT ROWID;
    INSERT OR IGNORE INTO seen_in SELECT seen.account_id, object_id, mailbox_id, uidvalidity, uid, modseq, seen_at
        FROM seen JOIN mailbox USING (account_id, uidvalidity);
    DROP TABLE seen;
    ALTER TABLE seen_in RENAME TO seen;
    CREATE INDEX seen_age ON seen (seen_at)
    """,
    """
    CREATE TABLE contact (
        account_id INTEGER NOT NULL, domain TEXT NOT NULL, local TEXT NOT NULL, address TEXT NOT NULL,
        state TEXT NOT NULL, since_ms INTEGER NOT NULL, modseq INTEGER NOT NULL,
        PRIMARY KEY (account_id, domain, local)) WITHOUT ROWID;
    CREATE INDEX contact_log ON contact (account_id, modseq)
    """,
    "CREATE INDEX message_object ON message (account_id, object_id)",
    """
    CREATE TABLE alias (
        domain TEXT NOT NULL, local TEXT NOT NULL, target TEXT NOT NULL, address TEXT NOT NULL,
        PRIMARY KEY (domain, local, target)) WITHOUT ROWID;
    ALTER TABLE message ADD COLUMN octets INTEGER NOT NULL DEFAULT 0;
    UPDATE message SET octets = coalesce(size, length(trace) + length(bodies));
    ALTER TABLE account ADD COLUMN used_octets INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE account ADD COLUMN used_messages INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE account ADD COLUMN max_octets INTEGER;
    ALTER TABLE account ADD COLUMN max_messages INTEGER;
    UPDATE account SET (used_octets, used_messages) =
        (SELECT coalesce(sum(octets), 0), count(*) FROM message WHERE message.account_id = account.account_id)
    """,
    """
    CREATE TABLE receipt_awaited (
        account_id INTEGER NOT NULL, object_id BLOB NOT NULL, domain TEXT NOT NULL, local TEXT NOT NULL,
        statuses TEXT NOT NULL, mail INTEGER NOT NULL, since_ms INTEGER NOT NULL,
        PRIMARY KEY (account_id, object_id, domain, local)) WITHOUT ROWID;
    CREATE TABLE receipt_owed (
        account_id INTEGER NOT NULL, object_id BLOB NOT NULL, status TEXT NOT NULL,
        at_ms INTEGER NOT NULL, nonce BLOB NOT NULL, sent INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (account_id, object_id, status)) WITHOUT ROWID;
    CREATE INDEX receipt_unsent ON receipt_owed (at_ms) WHERE sent=0
    """,
    """
    CREATE INDEX contact_state ON contact (account_id, state, since_ms);
    CREATE TABLE introduction (
        account_id INTEGER NOT NULL, message_id INTEGER NOT NULL, domain TEXT NOT NULL, local TEXT NOT NULL,
        requests INTEGER NOT NULL, PRIMARY KEY (account_id, message_id)) WITHOUT ROWID;
    CREATE INDEX introduction_sender ON introduction (account_id, domain, local);
    UPDATE OR IGNORE seen SET mailbox_id=0 WHERE EXISTS (
        SELECT 1 FROM mailbox WHERE mailbox.account_id=seen.account_id AND mailbox.mailbox_id=seen.mailbox_id
            AND (name='INBOX' OR special_use='\\Junk'))
    """,
    """
    CREATE TABLE message_blob (
        account_id INTEGER NOT NULL, hash BLOB NOT NULL, message_id INTEGER NOT NULL,
        PRIMARY KEY (account_id, hash, message_id),
        FOREIGN KEY (account_id, message_id) REFERENCES message ON DELETE CASCADE) WITHOUT ROWID;
    CREATE INDEX message_blob_message ON message_blob (account_id, message_id);
    INSERT INTO message_blob
        WITH RECURSIVE named (account_id, hash, message_id, rest) AS (
            SELECT account_id, substr(blobs, 1, 32), message_id, substr(blobs, 33) FROM message WHERE blobs != x''
            UNION ALL SELECT account_id, substr(rest, 1, 32), message_id, substr(rest, 33) FROM named WHERE rest != x'')
        SELECT account_id, hash, message_id FROM named;
    ALTER TABLE message DROP COLUMN blobs
    """,
    """
    ALTER TABLE mailbox ADD COLUMN changed INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE mailbox_deleted (
        account_id INTEGER NOT NULL, modseq INTEGER NOT NULL, name TEXT NOT NULL, uidvalidity INTEGER NOT NULL,
        PRIMARY KEY (account_id, modseq)) WITHOUT ROWID
    """,
    # epochs.py
    """
    CREATE TABLE epoch (number INTEGER PRIMARY KEY AUTOINCREMENT, stamp BLOB UNIQUE NOT NULL);
    INSERT INTO epoch (stamp) VALUES (randomblob(8));
    CREATE TABLE epoch_end (
        account_id INTEGER NOT NULL, number INTEGER NOT NULL, modseq INTEGER NOT NULL,
        PRIMARY KEY (account_id, number)) WITHOUT ROWID
    """,
    # A message is found by one number, which begins with its account's; it says itself how many entries it has and
    # whether it may come again, and only what was removed is remembered elsewhere: half the B-trees for a delivery.
    f"""
    CREATE TABLE message_kept (
        message_id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL, object_id BLOB NOT NULL, came_to INTEGER,
        entries INTEGER NOT NULL DEFAULT 1, protected BLOB NOT NULL, payload BLOB NOT NULL, signature BLOB NOT NULL,
        trace BLOB NOT NULL, bodies BLOB NOT NULL, octets INTEGER NOT NULL,
        size INTEGER, envelope BLOB, bodystructure BLOB, body BLOB);
    INSERT INTO message_kept SELECT {MESSAGE_KEY}, account_id, object_id, NULL,
        (SELECT count(*) FROM entry WHERE entry.account_id=message.account_id AND entry.message_id=message.message_id),
        protected, payload, signature, trace, bodies, octets, size, envelope, bodystructure, body FROM message;
    CREATE TABLE blob_named (
        account_id INTEGER NOT NULL, hash BLOB NOT NULL, message_id INTEGER NOT NULL,
        PRIMARY KEY (account_id, hash, message_id),
        FOREIGN KEY (message_id) REFERENCES message_kept ON DELETE CASCADE) WITHOUT ROWID;
    INSERT INTO blob_named SELECT account_id, hash, {MESSAGE_KEY} FROM message_blob;
    DROP TABLE message_blob;
    DROP TABLE message;
    ALTER TABLE message_kept RENAME TO message;
    ALTER TABLE blob_named RENAME TO message_blob;
    CREATE INDEX message_blob_message ON message_blob (message_id);
    CREATE UNIQUE INDEX message_object ON message (account_id, object_id, came_to);
    DROP INDEX entry_message;
    UPDATE entry SET message_id={MESSAGE_KEY};
    UPDATE introduction SET message_id={MESSAGE_KEY};
    CREATE TABLE removed (
        account_id INTEGER NOT NULL, object_id BLOB NOT NULL, came_to INTEGER NOT NULL, at_ms INTEGER NOT NULL,
        PRIMARY KEY (account_id, object_id, came_to)) WITHOUT ROWID;
    INSERT INTO removed SELECT account_id, object_id, mailbox_id, seen_at FROM seen;
    DROP TABLE seen;
    CREATE INDEX removed_age ON removed (at_ms)
    """,
]

ON_NEED = {RECEIPTS}  # made when something first comes there, and not subscribed

SPECIAL_USE = {
    "INBOX": None,
    "Sent": "\\Sent",
    "Drafts": "\\Drafts",
    "Trash": "\\Trash",
    "Junk": "\\Junk",
    "Archive": "\\Archive",
    "Introductions": "\\Introductions",  # ours alone, and never announced
}  # RFC 6154 §2; what a new account is given

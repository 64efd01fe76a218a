"""The tables of the outbound spool.

queue_destination has one row for each domain that something waits for: when the next of its rows is due, and how the
domain stands with us (queue/destinations.py). So a lease looks at domains and not at rows, and a domain that cannot be
reached costs one row, however much waits for it.
"""

STEPS = [
    """
    CREATE TABLE queue_message (
        message_key INTEGER PRIMARY KEY AUTOINCREMENT, object_id BLOB NOT NULL UNIQUE,
        protected BLOB NOT NULL, payload BLOB NOT NULL, signature BLOB NOT NULL, bodies BLOB NOT NULL,
        trace BLOB NOT NULL);
    CREATE TABLE queue_recipient (
        queue_id INTEGER PRIMARY KEY AUTOINCREMENT, message_key INTEGER NOT NULL,
        recipient TEXT NOT NULL, domain TEXT NOT NULL, reverse_path TEXT NOT NULL,
        state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next_attempt REAL NOT NULL,
        accepted REAL NOT NULL, last_code TEXT NOT NULL DEFAULT '', last_text TEXT NOT NULL DEFAULT '',
        UNIQUE (message_key, recipient));
    CREATE INDEX queue_due ON queue_recipient (state, next_attempt);
    CREATE INDEX queue_domain ON queue_recipient (domain, state)
    """,
    """
    ALTER TABLE queue_recipient ADD COLUMN options TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN ret TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN envid TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN notify TEXT NOT NULL DEFAULT '';
    ALTER TABLE queue_recipient ADD COLUMN orcpt TEXT NOT NULL DEFAULT ''
    """,
    """
    ALTER TABLE queue_recipient ADD COLUMN warned INTEGER NOT NULL DEFAULT 0;
    DROP INDEX queue_domain;
    CREATE INDEX queue_domain ON queue_recipient (domain, state, next_attempt);
    CREATE TABLE queue_destination (
        domain TEXT PRIMARY KEY, due REAL NOT NULL,
        failing INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0
        ) WITHOUT ROWID;
    CREATE INDEX destination_due ON queue_destination (failing, due);
    INSERT INTO queue_destination (domain, due) SELECT domain, min(next_attempt) FROM queue_recipient
        WHERE state IN ('waiting', 'leased') GROUP BY domain
    """,
    "ALTER TABLE queue_message ADD COLUMN blobs BLOB NOT NULL DEFAULT x''",
    """
    DROP INDEX destination_due;
    ALTER TABLE queue_destination ADD COLUMN standing INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE queue_destination ADD COLUMN reached REAL NOT NULL DEFAULT 0;
    UPDATE queue_destination SET standing=2 WHERE failing=1;
    ALTER TABLE queue_destination DROP COLUMN failing;
    CREATE INDEX destination_due ON queue_destination (standing, due)
    """,
    "CREATE INDEX queue_blobs ON queue_message (blobs) WHERE blobs<>x''",  # the column stands behind the bodies
    "ALTER TABLE queue_recipient ADD COLUMN found TEXT NOT NULL DEFAULT ''",
]

-- Messages and the positions of their channels; apps, keys and accounts.

-- An app as the messages know it: a small number instead of its name, and the largest timestamp ever committed in it.
CREATE TABLE tenant (
    id INTEGER PRIMARY KEY,
    app TEXT NOT NULL UNIQUE,
    timestamp INTEGER NOT NULL
) STRICT;

-- The position and timestamp of the last message committed. The epoch is empty while nothing was committed.
CREATE TABLE channel (
    id INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL REFERENCES tenant,
    name TEXT NOT NULL,
    epoch TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    UNIQUE (tenant, name)
) STRICT;

CREATE INDEX channel_by_age ON channel (tenant, timestamp);

-- A rowid table on purpose: rows can be 64 KiB, and rows in the order of their commits are appended, never sorted in.
-- The data stands last, so that the columns before it are read without following its overflow pages.
CREATE TABLE message (
    tenant INTEGER NOT NULL,
    channel INTEGER NOT NULL REFERENCES channel,
    epoch TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    persist INTEGER NOT NULL,
    id TEXT NOT NULL,
    identity TEXT NOT NULL,
    publisher TEXT NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX message_by_position ON message (channel, epoch, sequence);
CREATE INDEX history_by_time ON message (channel, timestamp, epoch, sequence) WHERE persist = 1;
CREATE INDEX message_by_age ON message (tenant, timestamp);
CREATE INDEX transient_by_age ON message (tenant, timestamp) WHERE persist = 0;

CREATE TABLE app (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    is_enabled INTEGER NOT NULL,
    allowed_origins TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE key (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES app,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    api_key_hash TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    secret TEXT NOT NULL,
    issuer TEXT,
    audience TEXT,
    permissions TEXT NOT NULL,
    client_ids TEXT,
    expires_at INTEGER,
    is_revoked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX key_by_app ON key (app);
CREATE UNIQUE INDEX key_by_hash ON key (api_key_hash) WHERE api_key_hash <> '';

CREATE TABLE account (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL,
    folded_email TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    role TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Where apps want to be told of events, and what is to be told there.

CREATE TABLE endpoint (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL REFERENCES app,
    url TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    events TEXT NOT NULL,
    channels TEXT,
    is_enabled INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX endpoint_by_app ON endpoint (app);

-- In the order of addition, which is that of the numbers. The data stands last: it can be 64 KiB.
CREATE TABLE outbox (
    number INTEGER PRIMARY KEY,
    app TEXT NOT NULL,
    event TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    channel TEXT NOT NULL,
    type TEXT NOT NULL,
    created REAL NOT NULL,
    data BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX outbox_by_event ON outbox (app, event, endpoint);
CREATE INDEX outbox_by_app ON outbox (app, number);

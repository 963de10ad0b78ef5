-- What an endpoint is told, and what became of it. The kind is 1 for what is ordered by
-- channels and 2 for what is told at once with others. Numbers are never given out twice.

CREATE TABLE delivery (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    event TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    channel TEXT NOT NULL,
    type TEXT NOT NULL,
    created REAL NOT NULL,
    kind INTEGER NOT NULL,
    state TEXT NOT NULL,
    due REAL NOT NULL,
    tries INTEGER NOT NULL,
    owner TEXT NOT NULL,
    batch TEXT NOT NULL,
    settled REAL NOT NULL,
    data BLOB NOT NULL,
    attempts BLOB NOT NULL
) STRICT;

INSERT INTO delivery
    SELECT number, app, event, endpoint, channel, type, created, 0, 'pending', created, 0, '', '', 0, data, CAST('[]' AS BLOB)
    FROM outbox;

DROP TABLE outbox;

ALTER TABLE delivery RENAME TO outbox;

CREATE UNIQUE INDEX outbox_by_event ON outbox (app, event, endpoint);
CREATE INDEX outbox_by_app ON outbox (app, number) WHERE state = 'pending';

-- What is due, what is ordered by its channels, and what waits to be told at once with others.
CREATE INDEX outbox_due ON outbox (endpoint, due) WHERE state = 'pending';
CREATE INDEX outbox_lane ON outbox (endpoint, channel, number) WHERE state = 'pending' AND kind = 1;
CREATE INDEX outbox_batch ON outbox (endpoint, batch) WHERE state = 'pending' AND batch <> '';

CREATE INDEX outbox_by_endpoint ON outbox (endpoint, state, number);
CREATE INDEX outbox_settled ON outbox (settled) WHERE state <> 'pending';

-- What an endpoint is signed with, and how it wants to be told.

ALTER TABLE endpoint ADD COLUMN description TEXT NOT NULL DEFAULT '';
ALTER TABLE endpoint ADD COLUMN is_ordered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoint ADD COLUMN is_batched INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoint ADD COLUMN secret TEXT NOT NULL DEFAULT '';
ALTER TABLE endpoint ADD COLUMN old_secret TEXT NOT NULL DEFAULT '';
ALTER TABLE endpoint ADD COLUMN old_secret_until INTEGER;
ALTER TABLE endpoint ADD COLUMN disabled_at INTEGER;
ALTER TABLE endpoint ADD COLUMN disabled_reason TEXT NOT NULL DEFAULT '';

-- What happens in each app, added up by the minute, the hour, the day and the month. A peak is kept as the largest.
CREATE TABLE meter (
    app TEXT NOT NULL,
    span TEXT NOT NULL,
    start INTEGER NOT NULL,
    name TEXT NOT NULL,
    is_peak INTEGER NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (app, span, start, is_peak, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX meter_by_age ON meter (span, start);

-- The last number of each process that added something: what is repeated after a failure is not added again.
CREATE TABLE meter_flush (
    node TEXT PRIMARY KEY,
    number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE meter_report (
    node TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    connections TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE meter_claim (
    app TEXT NOT NULL,
    what TEXT NOT NULL,
    period INTEGER NOT NULL,
    PRIMARY KEY (app, what, period)
) STRICT, WITHOUT ROWID;

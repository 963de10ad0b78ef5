-- Where pushes go, with what, and which are under way.

CREATE TABLE push_access (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    app TEXT NOT NULL REFERENCES app,
    platform TEXT NOT NULL,
    content TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX push_access_by_app ON push_access (app, id);

CREATE TABLE push_rule (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    app TEXT NOT NULL REFERENCES app,
    pattern TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX push_rule_once ON push_rule (app, pattern);
CREATE INDEX push_rule_by_app ON push_rule (app, id);

-- "reached" is the hash of what a device is reached by: it is known once in an app.
CREATE TABLE push_device (
    app TEXT NOT NULL,
    id TEXT NOT NULL,
    reached TEXT NOT NULL,
    member TEXT NOT NULL,
    platform TEXT NOT NULL,
    device TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (app, id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX push_device_once ON push_device (app, reached);
CREATE INDEX push_device_by_member ON push_device (app, member, id);
CREATE INDEX push_device_by_platform ON push_device (app, platform, id);

CREATE TABLE push_channel (
    app TEXT NOT NULL,
    channel TEXT NOT NULL,
    device TEXT NOT NULL,
    PRIMARY KEY (app, channel, device),
    FOREIGN KEY (app, device) REFERENCES push_device (app, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX push_channel_by_device ON push_channel (app, device, channel);

CREATE TABLE push_job (
    app TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    due INTEGER NOT NULL,
    owner TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    finished_at INTEGER,
    content TEXT NOT NULL,
    PRIMARY KEY (app, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX push_job_by_due ON push_job (due) WHERE state = 'pending';
CREATE INDEX push_job_by_end ON push_job (finished_at) WHERE finished_at IS NOT NULL;

-- Teams and their members, what logs accounts in, plans, namespaces, and the audit log.
-- The directory checks owners itself and deletes what belongs to a record with it.

CREATE TABLE plan (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    limits TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE team (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE membership (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    team TEXT NOT NULL REFERENCES team,
    account TEXT NOT NULL REFERENCES account,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX membership_once ON membership (team, account);
CREATE INDEX membership_by_account ON membership (account, id);

-- What was so far: one team has all apps, its members are all accounts, and who ran the server still does.
INSERT INTO team (id, version, name, created_at)
    SELECT 'team_first', 1, 'First team', oldest FROM (SELECT min(created_at) AS oldest FROM app)
    WHERE oldest IS NOT NULL;
INSERT INTO membership (id, version, team, account, role, created_at)
    SELECT team.id || '.' || account.id, 1, team.id, account.id, account.role, account.created_at FROM account, team
    WHERE account.role IN ('viewer', 'developer', 'admin', 'owner');

ALTER TABLE account ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE account ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN is_enabled INTEGER NOT NULL DEFAULT 1;
ALTER TABLE account ADD COLUMN is_operator INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN sessions_from INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN totp_secret TEXT NOT NULL DEFAULT '';
UPDATE account SET is_operator = 1 WHERE role = 'owner';
ALTER TABLE account DROP COLUMN role;

CREATE TABLE attempts (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    locked_until INTEGER NOT NULL,
    totp_step INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_by_expiry ON attempts (expires_at);

CREATE TABLE invitation (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    team TEXT NOT NULL REFERENCES team,
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    invited_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX invitation_by_team ON invitation (team, id);
CREATE INDEX invitation_by_expiry ON invitation (expires_at);

CREATE TABLE reset_token (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    account TEXT NOT NULL REFERENCES account,
    token_hash TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX reset_token_by_account ON reset_token (account, id);
CREATE INDEX reset_token_by_expiry ON reset_token (expires_at);

CREATE TABLE access_token (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    account TEXT NOT NULL REFERENCES account,
    name TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    role TEXT NOT NULL,
    team TEXT NOT NULL,
    permissions TEXT NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX access_token_by_account ON access_token (account, id);
CREATE INDEX access_token_by_team ON access_token (team, id);

CREATE TABLE dashboard_session (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    account TEXT NOT NULL REFERENCES account,
    family TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ip TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    replaced_at INTEGER,
    is_revoked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX dashboard_session_by_account ON dashboard_session (account, id);
CREATE INDEX dashboard_session_by_family ON dashboard_session (family, id);
CREATE INDEX dashboard_session_by_expiry ON dashboard_session (expires_at);

ALTER TABLE app ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE app ADD COLUMN team TEXT NOT NULL DEFAULT '';
ALTER TABLE app ADD COLUMN plan TEXT NOT NULL DEFAULT 'unlimited';
ALTER TABLE app ADD COLUMN settings TEXT NOT NULL DEFAULT '{}';
UPDATE app SET team = 'team_first';

CREATE INDEX app_by_team ON app (team, id);
CREATE INDEX app_by_plan ON app (plan, id);

CREATE TABLE namespace (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    app TEXT NOT NULL REFERENCES app,
    pattern TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    settings TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX namespace_once ON namespace (app, pattern);
CREATE INDEX namespace_by_app ON namespace (app, id);

ALTER TABLE key ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE key ADD COLUMN last_used_at INTEGER;
ALTER TABLE key ADD COLUMN replaced_by TEXT NOT NULL DEFAULT '';
ALTER TABLE key ADD COLUMN retire_at INTEGER;

ALTER TABLE endpoint ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

-- A number that grows with every change of the tables above: one row.
CREATE TABLE directory (
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO directory (revision) VALUES (1);

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    team TEXT NOT NULL,
    app TEXT NOT NULL,
    target TEXT NOT NULL,
    details TEXT NOT NULL,
    ip TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_time ON audit (at, id);
CREATE INDEX audit_by_team ON audit (team, at, id);
CREATE INDEX audit_by_app ON audit (app, at, id);
CREATE INDEX audit_by_actor ON audit (actor, at, id);

-- Revoked tokens and clients, keys that verify with a JWKS, and the plans of teams.

CREATE TABLE revocation (
    id TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    app TEXT NOT NULL REFERENCES app,
    kind TEXT NOT NULL,
    value TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    created_by TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX revocation_once ON revocation (app, kind, value);
CREATE INDEX revocation_by_app ON revocation (app, id);
CREATE INDEX revocation_by_expiry ON revocation (expires_at);

ALTER TABLE key ADD COLUMN jwks_url TEXT NOT NULL DEFAULT '';
ALTER TABLE key ADD COLUMN jwks_party TEXT NOT NULL DEFAULT '';
ALTER TABLE key ADD COLUMN first TEXT NOT NULL DEFAULT '';

CREATE UNIQUE INDEX key_by_jwks_party ON key (jwks_party) WHERE jwks_party <> '';

ALTER TABLE team ADD COLUMN plan TEXT NOT NULL DEFAULT 'unlimited';

CREATE INDEX team_by_plan ON team (plan, id);

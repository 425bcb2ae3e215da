-- The machines this site manages. A deleted client keeps its row for ever, so that neither its
-- id nor its certificate can come back to life.
CREATE TABLE clients (
    client_no               integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_id               uuid        NOT NULL UNIQUE,
    host_name               text        NOT NULL,
    os_id                   text        NOT NULL,
    os_version_id           text        NOT NULL,
    architecture            text        NOT NULL,
    agent_version           text        NOT NULL,
    machine_id_hash         bytea       NOT NULL,
    certificate_fingerprint text        NOT NULL,
    certificate_ends_at     timestamptz NOT NULL,
    epoch                   integer     NOT NULL CHECK (epoch > 0),  -- the highest one given
    enrolled_at             timestamptz NOT NULL DEFAULT now(),
    last_policy_at          timestamptz,
    deleted_at              timestamptz
);
CREATE INDEX clients_by_host_name ON clients (host_name) WHERE deleted_at IS NULL;

-- One-use tokens. Only their SHA-256 is kept; the hash of the key that used one lets a client
-- whose answer was lost ask again.
CREATE TABLE enrolment_tokens (
    token_hash    bytea       PRIMARY KEY CHECK (length(token_hash) = 32),
    created_at    timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    used_at       timestamptz,
    used_key_hash bytea,
    client_no     integer     REFERENCES clients (client_no),
    CHECK ((used_at IS NULL) = (used_key_hash IS NULL) AND (used_at IS NULL) = (client_no IS NULL))
);

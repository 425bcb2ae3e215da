-- Messages that could not be recorded, with their bytes: never dropped, never in the way of the
-- others. Repeats of the same bytes from the same origin are one row.
CREATE TABLE quarantine (
    quarantine_no bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at   timestamptz NOT NULL DEFAULT now(),
    origin        text        NOT NULL,
    reason        text        NOT NULL,
    body          bytea       NOT NULL,
    body_hash     bytea       NOT NULL,
    attempts      integer     NOT NULL DEFAULT 1,
    UNIQUE (body_hash, origin)
);

-- A client or management point that sends nothing but nonsense must not fill the disk. Of each
-- origin only so much is kept with its bytes; of the rest, how much there was and what the last
-- one was.
CREATE TABLE quarantine_overflow (
    origin      text        PRIMARY KEY,
    messages    bigint      NOT NULL,
    last_hash   bytea       NOT NULL,  -- SHA-256 of the bytes
    last_reason text        NOT NULL,
    first_at    timestamptz NOT NULL DEFAULT now(),
    last_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX quarantine_by_origin ON quarantine (origin);

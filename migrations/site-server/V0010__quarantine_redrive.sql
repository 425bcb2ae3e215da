-- A quarantined message can be tried again. For that it must be known what its bytes are, and for
-- whom the broker and the management point vouched: an administrator's second try is not a way
-- around the checks of the first one.
ALTER TABLE quarantine
    ADD COLUMN whole_batch boolean NOT NULL DEFAULT false,  -- an encoded ReportBatch, not one Report
    ADD COLUMN trusted     boolean NOT NULL DEFAULT true,   -- the broker vouched for the sender
    ADD COLUMN client_id   uuid,                            -- whom the certificate named, of one report
    ADD COLUMN tried_at    timestamptz;                     -- when it was last redriven in vain
UPDATE quarantine SET
    whole_batch = split_part(reason, ':', 1) IN ('UNKNOWN_SENDER', 'UNDECODABLE_BATCH'),
    trusted     = split_part(reason, ':', 1) <> 'UNKNOWN_SENDER',
    client_id   = substring(origin FROM ', client ([0-9a-f-]{36})$')::uuid;
CREATE INDEX quarantine_by_reason ON quarantine (split_part(reason, ':', 1), quarantine_no);

-- What became of messages that left the quarantine by the hand of an administrator: who, when,
-- and what it was. The bytes of a dropped message are gone; its hash tells whether it was this one.
CREATE TABLE quarantine_audit (
    quarantine_no bigint      PRIMARY KEY,
    action        text        NOT NULL CHECK (action IN ('redriven', 'dropped')),
    administrator text        NOT NULL,
    done_at       timestamptz NOT NULL DEFAULT now(),
    received_at   timestamptz NOT NULL,
    origin        text        NOT NULL,
    reason        text        NOT NULL,
    body_hash     bytea       NOT NULL,
    body_bytes    integer     NOT NULL,
    attempts      integer     NOT NULL
);

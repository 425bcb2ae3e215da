-- What a site wants of a client beside its routine reports, and when it is to be asked: what is
-- missing is asked for after minutes, then again with growing pauses. And which runs of the
-- client's program its reports came from: two that overlap show a state that went back to a copy,
-- or an identity that lives twice.
ALTER TABLE report_stream_rows
    ADD COLUMN runs           bytea    NOT NULL DEFAULT '',  -- crates/muster-stream/src/runs.rs
    ADD COLUMN register_epoch integer,       -- whoever is in this epoch is to register
    ADD COLUMN forked_at      timestamptz,   -- since when the identity is known to live twice
    ADD COLUMN ask_at         timestamptz,   -- when the client is asked next; null: nothing is wanted
    ADD COLUMN ask_tries      smallint NOT NULL DEFAULT 0;
UPDATE report_stream_rows SET ask_at = now() WHERE gap_since IS NOT NULL;
CREATE INDEX report_stream_rows_by_ask_at ON report_stream_rows (ask_at) WHERE ask_at IS NOT NULL;

CREATE OR REPLACE VIEW report_streams AS
SELECT s.client_no, s.epoch, s.has_full,
       GREATEST(s.contiguous_serial, l.serial) AS contiguous_serial,
       GREATEST(s.highest_serial, l.serial) AS highest_serial,
       s.early_reports, s.gap_since, s.wants_full,
       GREATEST(s.last_report_at, l.recorded_at) AS last_report_at,
       s.runs, s.register_epoch, s.forked_at, s.ask_at, s.ask_tries
FROM report_stream_rows s
LEFT JOIN LATERAL (
    SELECT max(serial) AS serial, max(recorded_at) AS recorded_at
    FROM client_compliance_log WHERE client_no = s.client_no AND epoch = s.epoch) AS l ON true;

-- The state system writes little per report. A small report is one narrow row in a log instead
-- of a new copy of the client's large row; the large row is written again once in a dozen
-- reports. Counters move by one row per batch, so that batches never wait for each other's
-- counters, and are summed up in the background. Readers see none of this: the names they know
-- are views that give the same columns, exact at any time.

ALTER TABLE client_compliance RENAME TO client_compliance_rows;
ALTER INDEX client_compliance_by_generation RENAME TO client_compliance_rows_by_generation;
-- A client is never removed from clients, and looking it up for each row cost as much as the row.
ALTER TABLE client_compliance_rows DROP CONSTRAINT client_compliance_client_no_fkey;

ALTER TABLE report_streams RENAME TO report_stream_rows;

-- What reports changed since client_compliance_rows and report_stream_rows were written, in the
-- order of (epoch, serial). The key also refuses whatever is recorded for a second time.
CREATE TABLE client_compliance_log (
    client_no          integer     NOT NULL,  -- no foreign key, as above
    epoch              integer     NOT NULL,
    serial             bigint      NOT NULL,  -- everything of the client up to here is recorded
    catalog_generation bigint      NOT NULL,
    recorded_at        timestamptz NOT NULL,
    update_nos         integer[]   NOT NULL,
    states             smallint[]  NOT NULL,  -- topic 500, one for each of update_nos
    PRIMARY KEY (client_no, epoch, serial)
);

CREATE VIEW client_compliance AS
SELECT r.client_no, COALESCE(l.epoch, r.epoch) AS epoch, COALESCE(l.serial, r.serial) AS serial,
       GREATEST(r.catalog_generation, l.catalog_generation) AS catalog_generation,
       CASE WHEN m.touched IS NULL THEN r.installed ELSE ARRAY(
           SELECT unnest(r.installed) EXCEPT SELECT unnest(m.touched)
           UNION SELECT unnest(m.installed) ORDER BY 1) END AS installed,
       CASE WHEN m.touched IS NULL THEN r.required ELSE ARRAY(
           SELECT unnest(r.required) EXCEPT SELECT unnest(m.touched)
           UNION SELECT unnest(m.required) ORDER BY 1) END AS required,
       CASE WHEN m.touched IS NULL THEN r.unknown ELSE ARRAY(
           SELECT unnest(r.unknown) EXCEPT SELECT unnest(m.touched)
           UNION SELECT unnest(m.unknown) ORDER BY 1) END AS unknown,
       GREATEST(r.changed_at, l.recorded_at) AS changed_at
FROM client_compliance_rows r
LEFT JOIN LATERAL (
    SELECT max(epoch) AS epoch, max(serial) AS serial,
           max(catalog_generation) AS catalog_generation, max(recorded_at) AS recorded_at
    FROM client_compliance_log WHERE client_no = r.client_no) AS l ON true
LEFT JOIN LATERAL (
    SELECT array_agg(update_no) AS touched,
           array_agg(update_no) FILTER (WHERE state = 3) AS installed,
           array_agg(update_no) FILTER (WHERE state = 2) AS required,
           array_agg(update_no) FILTER (WHERE state = 0) AS unknown
    FROM (SELECT DISTINCT ON (c.update_no) c.update_no, c.state
          FROM client_compliance_log g, unnest(g.update_nos, g.states) AS c (update_no, state)
          WHERE g.client_no = r.client_no
          ORDER BY c.update_no, g.epoch DESC, g.serial DESC) AS newest) AS m ON true;

CREATE VIEW report_streams AS
SELECT s.client_no, s.epoch, s.has_full,
       GREATEST(s.contiguous_serial, l.serial) AS contiguous_serial,
       GREATEST(s.highest_serial, l.serial) AS highest_serial,
       s.early_reports, s.gap_since, s.wants_full,
       GREATEST(s.last_report_at, l.recorded_at) AS last_report_at
FROM report_stream_rows s
LEFT JOIN LATERAL (
    SELECT max(serial) AS serial, max(recorded_at) AS recorded_at
    FROM client_compliance_log WHERE client_no = s.client_no AND epoch = s.epoch) AS l ON true;

ALTER TABLE update_counters RENAME TO update_counter_rows;
ALTER INDEX update_counters_required RENAME TO update_counter_rows_required;
ALTER TABLE recorded_totals RENAME TO recorded_total_rows;

-- By how much each batch moved the counters, until a task has added it to the rows above.
CREATE TABLE counter_moves (
    move_no    bigint    PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    reports    bigint    NOT NULL,
    states     bigint    NOT NULL,
    update_nos integer[] NOT NULL,
    installed  integer[] NOT NULL,  -- one for each of update_nos, as the two below
    required   integer[] NOT NULL,
    unknown    integer[] NOT NULL
);
-- They live for seconds: not worth the time to compress them.
ALTER TABLE counter_moves
    ALTER update_nos SET STORAGE EXTERNAL, ALTER installed SET STORAGE EXTERNAL,
    ALTER required SET STORAGE EXTERNAL, ALTER unknown SET STORAGE EXTERNAL;

CREATE VIEW update_counters AS
SELECT update_no, sum(installed)::integer AS installed, sum(required)::integer AS required,
       sum(unknown)::integer AS unknown
FROM (SELECT update_no, installed, required, unknown FROM update_counter_rows
      UNION ALL
      SELECT c.update_no, c.installed, c.required, c.unknown
      FROM counter_moves m, unnest(m.update_nos, m.installed, m.required, m.unknown)
           AS c (update_no, installed, required, unknown)) AS moved
GROUP BY update_no;

CREATE VIEW recorded_totals AS
SELECT r.reports + COALESCE(m.reports, 0)::bigint AS reports,
       r.states + COALESCE(m.states, 0)::bigint AS states
FROM recorded_total_rows r,
     (SELECT sum(reports) AS reports, sum(states) AS states FROM counter_moves) AS m;

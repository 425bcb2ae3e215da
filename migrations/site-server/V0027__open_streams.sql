-- Every few seconds the site counts the clients of whom something is missing: few, out of all.
CREATE INDEX report_stream_rows_open ON report_stream_rows (client_no) WHERE gap_since IS NOT NULL OR wants_full;

-- Reports of errors read the few rows that have one, not all. A row that has none, before and
-- after, never touches these.
CREATE INDEX update_enforcement_errors ON update_enforcement_states (error_code, client_no)
    WHERE error_code <> 0;
CREATE INDEX deployment_errors ON deployment_states (error_code, client_no)
    WHERE error_code <> 0;
CREATE INDEX scan_errors ON scan_states (error_code, client_no) WHERE error_code <> 0;

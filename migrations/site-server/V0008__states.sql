-- How far each client's stream of reports has been recorded. A report is applied in the
-- transaction that moves these marks, so a repeat is recognised before anything else is touched.
CREATE TABLE report_streams (
    client_no         integer     PRIMARY KEY REFERENCES clients (client_no),
    epoch             integer     NOT NULL,
    has_full          boolean     NOT NULL DEFAULT false,  -- a FULL report of this epoch was recorded
    contiguous_serial bigint      NOT NULL DEFAULT 0,      -- everything up to here is recorded
    highest_serial    bigint      NOT NULL DEFAULT 0,      -- the last one seen at all
    -- Compliance of reports that overtook others: kept here until the gap is closed.
    early_reports     bytea[]     NOT NULL DEFAULT '{}',
    gap_since         timestamptz,
    wants_full        boolean     NOT NULL DEFAULT true,   -- the client is asked for a FULL report
    last_report_at    timestamptz
) WITH (fillfactor = 80);

-- One row per client holds its truth. "Not required" is inferred: known to that catalog
-- generation and in none of the three sets.
CREATE TABLE client_compliance (
    client_no          integer     PRIMARY KEY REFERENCES clients (client_no),
    epoch              integer     NOT NULL,
    serial             bigint      NOT NULL,
    catalog_generation bigint      NOT NULL,
    installed          integer[]   NOT NULL,  -- ascending, as the two below
    required           integer[]   NOT NULL,
    unknown            integer[]   NOT NULL,
    changed_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX client_compliance_by_generation ON client_compliance (catalog_generation);

-- The other direction: clients per update, moved by the difference in the same transaction. A
-- recount of client_compliance gives the same numbers at any time.
CREATE TABLE update_counters (
    update_no integer PRIMARY KEY,  -- no foreign key: a client may know the update before the site does
    installed integer NOT NULL,
    required  integer NOT NULL,
    unknown   integer NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX update_counters_required ON update_counters (update_no) WHERE required > 0;

-- What each client last said about each update of each deployment (topic 402). Overwritten in
-- place: this table stays small to answer the console.
CREATE TABLE update_enforcement_states (
    client_no     integer     NOT NULL REFERENCES clients (client_no),
    deployment_no integer     NOT NULL REFERENCES deployments (deployment_no) ON DELETE CASCADE,
    update_no     integer     NOT NULL,
    state         smallint    NOT NULL CHECK (state BETWEEN 0 AND 14),
    error_code    integer     NOT NULL,
    detail        text        NOT NULL,
    epoch         integer     NOT NULL,
    serial        bigint      NOT NULL,  -- the client's own counter within its epoch
    changed_at    timestamptz NOT NULL,  -- by the client's clock: data, never order
    PRIMARY KEY (client_no, deployment_no, update_no)
) WITH (fillfactor = 80);
CREATE INDEX update_enforcement_states_by_deployment ON update_enforcement_states (deployment_no);

-- Topics 300, 301 and 302 of each deployment on each client.
CREATE TABLE deployment_states (
    client_no     integer     NOT NULL REFERENCES clients (client_no),
    deployment_no integer     NOT NULL REFERENCES deployments (deployment_no) ON DELETE CASCADE,
    compliance    smallint    NOT NULL CHECK (compliance BETWEEN 0 AND 3),
    enforcement   smallint    NOT NULL CHECK (enforcement BETWEEN 0 AND 12),
    evaluation    smallint    NOT NULL CHECK (evaluation BETWEEN 0 AND 3),
    error_code    integer     NOT NULL,
    detail        text        NOT NULL,
    epoch         integer     NOT NULL,
    serial        bigint      NOT NULL,
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (client_no, deployment_no)
) WITH (fillfactor = 80);
CREATE INDEX deployment_states_by_deployment ON deployment_states (deployment_no);

-- Topic 501.
CREATE TABLE scan_states (
    client_no       integer  PRIMARY KEY REFERENCES clients (client_no),
    state           smallint NOT NULL CHECK (state BETWEEN 0 AND 6),
    last_scanned_at timestamptz,
    error_code      integer  NOT NULL,
    detail          text     NOT NULL,
    epoch           integer  NOT NULL,
    serial          bigint   NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE restart_states (
    client_no integer PRIMARY KEY REFERENCES clients (client_no),
    pending   boolean NOT NULL,
    reason    text    NOT NULL,
    epoch     integer NOT NULL,
    serial    bigint  NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE inventories (
    client_no          integer PRIMARY KEY REFERENCES clients (client_no),
    kernel             text    NOT NULL,
    installed_packages integer NOT NULL,
    free_disk_bytes    bigint  NOT NULL,
    memory_bytes       bigint  NOT NULL,
    epoch              integer NOT NULL,
    serial             bigint  NOT NULL
) WITH (fillfactor = 80);

-- Topic 1300.
CREATE TABLE client_health (
    client_no integer PRIMARY KEY REFERENCES clients (client_no),
    healthy   boolean NOT NULL,
    problems  text[]  NOT NULL,
    epoch     integer NOT NULL,
    serial    bigint  NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE recorded_totals (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    reports  bigint  NOT NULL,
    states   bigint  NOT NULL
) WITH (fillfactor = 50);
INSERT INTO recorded_totals (reports, states) VALUES (0, 0);

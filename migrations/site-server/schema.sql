-- What the migrations of this folder make, for reading. Written by the site server's test
-- `schema`: change a table by a new migration, then run it with MUSTER_WRITE_SCHEMA=1.

CREATE TABLE catalog_state (
    only_row boolean NOT NULL DEFAULT true,
    generation bigint NOT NULL,
    changed_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (only_row),
    CHECK (only_row)
);

CREATE TABLE client_compliance_log (
    client_no integer NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    catalog_generation bigint NOT NULL,
    recorded_at timestamp with time zone NOT NULL,
    update_nos integer[] NOT NULL,
    states smallint[] NOT NULL,
    PRIMARY KEY (client_no, epoch, serial)
);

CREATE TABLE client_compliance_rows (
    client_no integer NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    catalog_generation bigint NOT NULL,
    installed integer[] NOT NULL,
    required integer[] NOT NULL,
    unknown integer[] NOT NULL,
    changed_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (client_no)
);
CREATE INDEX client_compliance_rows_by_generation ON client_compliance_rows USING btree (catalog_generation);

CREATE TABLE client_health (
    client_no integer NOT NULL,
    healthy boolean NOT NULL,
    problems text[] NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    PRIMARY KEY (client_no),
    FOREIGN KEY (client_no) REFERENCES clients(client_no)
);

CREATE TABLE client_moves (
    client_id uuid NOT NULL,
    move_no bigint NOT NULL,
    to_site_code text NOT NULL,
    arrived boolean NOT NULL DEFAULT false,
    definition bytea NOT NULL,
    owner_site_code text,
    PRIMARY KEY (client_id),
    CHECK ((move_no > 0))
);

CREATE TABLE clients (
    client_no integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    client_id uuid NOT NULL,
    host_name text NOT NULL,
    os_id text NOT NULL,
    os_version_id text NOT NULL,
    architecture text NOT NULL,
    agent_version text NOT NULL,
    machine_id_hash bytea,
    certificate_fingerprint text,
    certificate_ends_at timestamp with time zone,
    epoch integer NOT NULL,
    enrolled_at timestamp with time zone NOT NULL DEFAULT now(),
    last_policy_at timestamp with time zone,
    deleted_at timestamp with time zone,
    separated_from integer,
    owner_site_code text,
    via_site_code text,
    via_client_no integer,
    move_no bigint NOT NULL DEFAULT 0,
    UNIQUE (client_id),
    PRIMARY KEY (client_no),
    FOREIGN KEY (separated_from) REFERENCES clients(client_no),
    CHECK ((epoch > 0)),
    CHECK ((via_client_no > 0))
);
CREATE INDEX clients_by_bucket ON clients USING btree (link_bucket(client_id));
CREATE INDEX clients_by_host_name ON clients USING btree (host_name) WHERE (deleted_at IS NULL);
CREATE UNIQUE INDEX clients_by_number_below ON clients USING btree (via_site_code, via_client_no) WHERE (via_client_no IS NOT NULL);
CREATE INDEX clients_by_owner ON clients USING btree (owner_site_code) WHERE (owner_site_code IS NOT NULL);
CREATE INDEX clients_by_separation ON clients USING btree (separated_from) WHERE (separated_from IS NOT NULL);

CREATE TABLE collection_members (
    collection_no integer NOT NULL,
    client_no integer NOT NULL,
    PRIMARY KEY (collection_no, client_no),
    FOREIGN KEY (client_no) REFERENCES clients(client_no),
    FOREIGN KEY (collection_no) REFERENCES collections(collection_no) ON DELETE CASCADE
);
CREATE INDEX collection_members_by_client ON collection_members USING btree (client_no);

CREATE TABLE collection_waiting_members (
    collection_no integer NOT NULL,
    client_id uuid NOT NULL,
    PRIMARY KEY (collection_no, client_id),
    FOREIGN KEY (collection_no) REFERENCES collections(collection_no) ON DELETE CASCADE
);
CREATE INDEX collection_waiting_members_by_client ON collection_waiting_members USING btree (client_id);

CREATE TABLE collections (
    collection_no integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    collection_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    built_in boolean NOT NULL DEFAULT false,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    owner_site_code text,
    UNIQUE (collection_id),
    PRIMARY KEY (collection_no)
);
CREATE UNIQUE INDEX collections_by_name ON collections USING btree (lower(name), owner_site_code) NULLS NOT DISTINCT;

CREATE TABLE content_files (
    sha256 bytea NOT NULL,
    size bigint NOT NULL,
    path text NOT NULL,
    archive_uri text NOT NULL,
    PRIMARY KEY (sha256),
    CHECK ((length(sha256) = 32))
);

CREATE TABLE counter_moves (
    move_no bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    reports bigint NOT NULL,
    states bigint NOT NULL,
    update_nos integer[] NOT NULL,
    installed integer[] NOT NULL,
    required integer[] NOT NULL,
    unknown integer[] NOT NULL,
    deployment_nos integer[] NOT NULL DEFAULT '{}'::integer[],
    deployment_topics smallint[] NOT NULL DEFAULT '{}'::smallint[],
    deployment_states smallint[] NOT NULL DEFAULT '{}'::smallint[],
    deployment_clients integer[] NOT NULL DEFAULT '{}'::integer[],
    PRIMARY KEY (move_no)
);

CREATE TABLE denied_certificates (
    fingerprint bytea NOT NULL,
    client_no integer NOT NULL,
    replaced boolean NOT NULL,
    denied_at timestamp with time zone NOT NULL DEFAULT now(),
    ends_at timestamp with time zone NOT NULL,
    PRIMARY KEY (fingerprint),
    FOREIGN KEY (client_no) REFERENCES clients(client_no),
    CHECK ((length(fingerprint) = 32))
);
CREATE INDEX denied_certificates_by_client ON denied_certificates USING btree (client_no);
CREATE INDEX denied_certificates_by_time ON denied_certificates USING btree (denied_at);

CREATE TABLE deployment_counter_rows (
    deployment_no integer NOT NULL,
    topic smallint NOT NULL,
    state smallint NOT NULL,
    clients integer NOT NULL,
    PRIMARY KEY (deployment_no, topic, state),
    FOREIGN KEY (deployment_no) REFERENCES deployments(deployment_no) ON DELETE CASCADE,
    CHECK ((topic = ANY (ARRAY[300, 301, 302])))
);

CREATE TABLE deployment_states (
    client_no integer NOT NULL,
    deployment_no integer NOT NULL,
    compliance smallint NOT NULL,
    enforcement smallint NOT NULL,
    evaluation smallint NOT NULL,
    error_code integer NOT NULL,
    detail text NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    PRIMARY KEY (client_no, deployment_no),
    CHECK (((compliance >= 0) AND (compliance <= 3))),
    CHECK (((enforcement >= 0) AND (enforcement <= 12))),
    CHECK (((evaluation >= 0) AND (evaluation <= 3)))
);
CREATE INDEX deployment_errors ON deployment_states USING btree (error_code, client_no) WHERE (error_code <> 0);
CREATE INDEX deployment_states_by_deployment ON deployment_states USING btree (deployment_no);

CREATE TABLE deployment_trend (
    deployment_no integer NOT NULL,
    at timestamp with time zone NOT NULL,
    clients integer NOT NULL,
    states smallint[] NOT NULL,
    state_clients integer[] NOT NULL,
    PRIMARY KEY (deployment_no, at)
) PARTITION BY RANGE (at);

CREATE TABLE deployment_updates (
    deployment_no integer NOT NULL,
    update_no integer NOT NULL,
    PRIMARY KEY (deployment_no, update_no),
    FOREIGN KEY (deployment_no) REFERENCES deployments(deployment_no) ON DELETE CASCADE,
    FOREIGN KEY (update_no) REFERENCES updates(update_no)
);
CREATE INDEX deployment_updates_by_update ON deployment_updates USING btree (update_no);

CREATE TABLE deployments (
    deployment_no integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    deployment_id uuid NOT NULL,
    name text NOT NULL,
    collection_no integer NOT NULL,
    update_list_no integer,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    available_at timestamp with time zone NOT NULL,
    deadline_at timestamp with time zone,
    suppress_restart boolean NOT NULL,
    verbosity smallint NOT NULL DEFAULT 10,
    owner_site_code text,
    UNIQUE (deployment_id),
    PRIMARY KEY (deployment_no),
    FOREIGN KEY (collection_no) REFERENCES collections(collection_no),
    FOREIGN KEY (update_list_no) REFERENCES update_lists(update_list_no),
    CHECK ((verbosity = ANY (ARRAY[0, 1, 5, 10])))
);
CREATE INDEX deployments_by_collection ON deployments USING btree (collection_no);
CREATE UNIQUE INDEX deployments_by_name ON deployments USING btree (lower(name), owner_site_code) NULLS NOT DISTINCT;

CREATE TABLE dirty_clients (
    mark_no bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    client_nos integer[] NOT NULL,
    marked_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (mark_no)
);

CREATE TABLE dirty_objects (
    peer_site_code text NOT NULL,
    kind smallint NOT NULL,
    object_id uuid NOT NULL,
    marked_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_site_code, kind, object_id),
    FOREIGN KEY (peer_site_code) REFERENCES links(peer_site_code) ON DELETE CASCADE
);

CREATE TABLE dirty_sites (
    peer_site_code text NOT NULL,
    site_code text NOT NULL,
    marked_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_site_code, site_code),
    FOREIGN KEY (peer_site_code) REFERENCES links(peer_site_code) ON DELETE CASCADE
);

CREATE TABLE distribution_states (
    distribution_point text NOT NULL,
    sha256 bytea NOT NULL,
    state smallint NOT NULL,
    bytes_fetched bigint NOT NULL DEFAULT 0,
    detail text NOT NULL DEFAULT ''::text,
    changed_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (distribution_point, sha256),
    FOREIGN KEY (sha256) REFERENCES content_files(sha256) ON DELETE CASCADE,
    CHECK (((state >= 1) AND (state <= 5)))
);
CREATE INDEX distribution_states_by_sha256 ON distribution_states USING btree (sha256, state);

CREATE TABLE enrolment_token_collections (
    token_hash bytea NOT NULL,
    collection_no integer NOT NULL,
    PRIMARY KEY (token_hash, collection_no),
    FOREIGN KEY (collection_no) REFERENCES collections(collection_no) ON DELETE CASCADE,
    FOREIGN KEY (token_hash) REFERENCES enrolment_tokens(token_hash) ON DELETE CASCADE
);

CREATE TABLE enrolment_tokens (
    token_hash bytea NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    used_key_hash bytea,
    client_no integer,
    PRIMARY KEY (token_hash),
    FOREIGN KEY (client_no) REFERENCES clients(client_no),
    CHECK ((((used_at IS NULL) = (used_key_hash IS NULL)) AND ((used_at IS NULL) = (client_no IS NULL)))),
    CHECK ((length(token_hash) = 32))
);

CREATE TABLE identity_renewals (
    key_hash bytea NOT NULL,
    client_no integer NOT NULL,
    new_client_no integer NOT NULL,
    epoch integer NOT NULL,
    certificate bytea NOT NULL,
    run_id bigint NOT NULL,
    renewed_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (key_hash),
    FOREIGN KEY (client_no) REFERENCES clients(client_no),
    FOREIGN KEY (new_client_no) REFERENCES clients(client_no),
    CHECK ((length(key_hash) = 32))
);
CREATE INDEX identity_renewals_by_new_client ON identity_renewals USING btree (new_client_no);

CREATE TABLE inventories (
    client_no integer NOT NULL,
    kernel text NOT NULL,
    installed_packages integer NOT NULL,
    free_disk_bytes bigint NOT NULL,
    memory_bytes bigint NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    PRIMARY KEY (client_no),
    FOREIGN KEY (client_no) REFERENCES clients(client_no)
);

CREATE TABLE link_batches (
    peer_site_code text NOT NULL,
    seq bigint NOT NULL,
    chain bytea NOT NULL,
    message bytea NOT NULL,
    items integer NOT NULL,
    numbered_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (peer_site_code, seq),
    FOREIGN KEY (peer_site_code) REFERENCES links(peer_site_code) ON DELETE CASCADE
);

CREATE TABLE links (
    peer_site_code text NOT NULL,
    peer_name text NOT NULL,
    is_parent boolean NOT NULL,
    public_key bytea NOT NULL,
    peer_protocol integer NOT NULL,
    peer_version text NOT NULL DEFAULT ''::text,
    lineage text[] NOT NULL DEFAULT '{}'::text[],
    joined_at timestamp with time zone NOT NULL DEFAULT now(),
    out_epoch integer NOT NULL DEFAULT 1,
    out_acked_seq bigint NOT NULL DEFAULT 0,
    out_acked_chain bytea NOT NULL DEFAULT '\x00000000000000000000000000000000'::bytea,
    in_epoch integer NOT NULL DEFAULT 0,
    in_seq bigint NOT NULL DEFAULT 0,
    in_chain bytea NOT NULL DEFAULT '\x00000000000000000000000000000000'::bytea,
    heard_at timestamp with time zone,
    refusal text,
    certificate_fingerprint text,
    broker_password_hash text,
    differing bigint NOT NULL DEFAULT 0,
    differed_at timestamp with time zone,
    PRIMARY KEY (peer_site_code),
    CHECK ((peer_site_code ~ '^[A-Z0-9]{3}$'::text)),
    CHECK ((length(public_key) = 32))
);
CREATE UNIQUE INDEX links_one_parent ON links USING btree (is_parent) WHERE is_parent;

CREATE TABLE moved_numbers (
    via_site_code text NOT NULL,
    via_client_no integer NOT NULL,
    client_id uuid NOT NULL,
    PRIMARY KEY (via_site_code, via_client_no)
);

CREATE TABLE objects (
    kind smallint NOT NULL,
    object_id uuid NOT NULL,
    owner_site_code text,
    via_site_code text,
    deleted boolean NOT NULL DEFAULT false,
    definition bytea NOT NULL,
    PRIMARY KEY (kind, object_id),
    CHECK (((kind >= 1) AND (kind <= 5)))
);

CREATE TABLE package_files (
    package_no integer NOT NULL,
    sha256 bytea NOT NULL,
    PRIMARY KEY (package_no, sha256),
    FOREIGN KEY (package_no) REFERENCES packages(package_no) ON DELETE CASCADE,
    FOREIGN KEY (sha256) REFERENCES content_files(sha256)
);
CREATE INDEX package_files_by_sha256 ON package_files USING btree (sha256);

CREATE TABLE package_updates (
    package_no integer NOT NULL,
    update_no integer NOT NULL,
    PRIMARY KEY (package_no, update_no),
    FOREIGN KEY (package_no) REFERENCES packages(package_no) ON DELETE CASCADE,
    FOREIGN KEY (update_no) REFERENCES updates(update_no)
);

CREATE TABLE packages (
    package_no integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    package_id uuid NOT NULL,
    name text NOT NULL,
    all_leaves boolean NOT NULL,
    update_list_no integer,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    owner_site_code text,
    UNIQUE (package_id),
    PRIMARY KEY (package_no),
    FOREIGN KEY (update_list_no) REFERENCES update_lists(update_list_no)
);
CREATE UNIQUE INDEX packages_by_name ON packages USING btree (lower(name), owner_site_code) NULLS NOT DISTINCT;

CREATE TABLE parent_broker (
    peer_site_code text NOT NULL,
    uri text NOT NULL,
    username text NOT NULL,
    password text NOT NULL,
    ca text NOT NULL,
    certificate text NOT NULL,
    key text NOT NULL,
    address text NOT NULL DEFAULT ''::text,
    PRIMARY KEY (peer_site_code),
    FOREIGN KEY (peer_site_code) REFERENCES links(peer_site_code) ON DELETE CASCADE
);

CREATE TABLE policy_revision (
    only_row boolean NOT NULL DEFAULT true,
    revision bigint NOT NULL,
    PRIMARY KEY (only_row),
    CHECK (only_row)
);

CREATE TABLE published_suites (
    distribution_point text NOT NULL,
    suite_key text NOT NULL,
    suite text NOT NULL,
    archive_uri text NOT NULL,
    components text[] NOT NULL,
    architectures text[] NOT NULL,
    signed_by text NOT NULL,
    ignore_valid_until boolean NOT NULL,
    snapshot_hash bytea NOT NULL,
    published_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (distribution_point, suite_key),
    CHECK ((suite_key ~ '^[0-9a-f]{16}$'::text))
);

CREATE TABLE quarantine (
    quarantine_no bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    received_at timestamp with time zone NOT NULL DEFAULT now(),
    origin text NOT NULL,
    reason text NOT NULL,
    body bytea NOT NULL,
    body_hash bytea NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    whole_batch boolean NOT NULL DEFAULT false,
    trusted boolean NOT NULL DEFAULT true,
    client_id uuid,
    tried_at timestamp with time zone,
    UNIQUE (body_hash, origin),
    PRIMARY KEY (quarantine_no)
);
CREATE INDEX quarantine_by_origin ON quarantine USING btree (origin);
CREATE INDEX quarantine_by_reason ON quarantine USING btree (split_part(reason, ':'::text, 1), quarantine_no);

CREATE TABLE quarantine_audit (
    quarantine_no bigint NOT NULL,
    action text NOT NULL,
    administrator text NOT NULL,
    done_at timestamp with time zone NOT NULL DEFAULT now(),
    received_at timestamp with time zone NOT NULL,
    origin text NOT NULL,
    reason text NOT NULL,
    body_hash bytea NOT NULL,
    body_bytes integer NOT NULL,
    attempts integer NOT NULL,
    PRIMARY KEY (quarantine_no),
    CHECK ((action = ANY (ARRAY['redriven'::text, 'dropped'::text])))
);

CREATE TABLE quarantine_overflow (
    origin text NOT NULL,
    messages bigint NOT NULL,
    last_hash bytea NOT NULL,
    last_reason text NOT NULL,
    first_at timestamp with time zone NOT NULL DEFAULT now(),
    last_at timestamp with time zone NOT NULL DEFAULT now(),
    PRIMARY KEY (origin)
);

CREATE TABLE recorded_total_rows (
    only_row boolean NOT NULL DEFAULT true,
    reports bigint NOT NULL,
    states bigint NOT NULL,
    PRIMARY KEY (only_row),
    CHECK (only_row)
);

CREATE TABLE repair_buckets (
    peer_site_code text NOT NULL,
    clients boolean NOT NULL,
    bucket smallint NOT NULL,
    PRIMARY KEY (peer_site_code, clients, bucket),
    FOREIGN KEY (peer_site_code) REFERENCES links(peer_site_code) ON DELETE CASCADE
);

CREATE TABLE report_stream_rows (
    client_no integer NOT NULL,
    epoch integer NOT NULL,
    has_full boolean NOT NULL DEFAULT false,
    contiguous_serial bigint NOT NULL DEFAULT 0,
    highest_serial bigint NOT NULL DEFAULT 0,
    early_reports bytea[] NOT NULL DEFAULT '{}'::bytea[],
    gap_since timestamp with time zone,
    wants_full boolean NOT NULL DEFAULT true,
    last_report_at timestamp with time zone,
    runs bytea NOT NULL DEFAULT '\x'::bytea,
    register_epoch integer,
    forked_at timestamp with time zone,
    ask_at timestamp with time zone,
    ask_tries smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (client_no),
    FOREIGN KEY (client_no) REFERENCES clients(client_no)
);
CREATE INDEX report_stream_rows_by_ask_at ON report_stream_rows USING btree (ask_at) WHERE (ask_at IS NOT NULL);
CREATE INDEX report_stream_rows_open ON report_stream_rows USING btree (client_no) WHERE ((gap_since IS NOT NULL) OR wants_full);

CREATE TABLE restart_states (
    client_no integer NOT NULL,
    pending boolean NOT NULL,
    reason text NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    PRIMARY KEY (client_no),
    FOREIGN KEY (client_no) REFERENCES clients(client_no)
);

CREATE TABLE scan_states (
    client_no integer NOT NULL,
    state smallint NOT NULL,
    last_scanned_at timestamp with time zone,
    error_code integer NOT NULL,
    detail text NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    PRIMARY KEY (client_no),
    FOREIGN KEY (client_no) REFERENCES clients(client_no),
    CHECK (((state >= 0) AND (state <= 6)))
);
CREATE INDEX scan_errors ON scan_states USING btree (error_code, client_no) WHERE (error_code <> 0);

CREATE TABLE site_invitations (
    token_hash bytea NOT NULL,
    site_code text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    expires_at timestamp with time zone NOT NULL,
    used_at timestamp with time zone,
    used_key bytea,
    PRIMARY KEY (token_hash),
    CHECK (((used_at IS NULL) = (used_key IS NULL))),
    CHECK ((site_code ~ '^[A-Z0-9]{3}$'::text)),
    CHECK ((length(token_hash) = 32))
);

CREATE TABLE site_trend (
    at timestamp with time zone NOT NULL,
    clients integer NOT NULL,
    never_reported integer NOT NULL,
    old_catalog integer NOT NULL,
    scan_failed integer NOT NULL,
    non_compliant integer NOT NULL,
    installed bigint NOT NULL,
    required bigint NOT NULL,
    unknown bigint NOT NULL,
    PRIMARY KEY (at)
) PARTITION BY RANGE (at);

CREATE TABLE sites (
    site_code text NOT NULL,
    name text NOT NULL,
    parent_site_code text,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    via_site_code text,
    record bytea,
    gone_at timestamp with time zone,
    PRIMARY KEY (site_code),
    CHECK ((site_code ~ '^[A-Z0-9]{3}$'::text))
);

CREATE TABLE update_counter_rows (
    update_no integer NOT NULL,
    installed integer NOT NULL,
    required integer NOT NULL,
    unknown integer NOT NULL,
    PRIMARY KEY (update_no)
);
CREATE INDEX update_counter_rows_required ON update_counter_rows USING btree (update_no) WHERE (required > 0);

CREATE TABLE update_enforcement_states (
    client_no integer NOT NULL,
    deployment_no integer NOT NULL,
    update_no integer NOT NULL,
    state smallint NOT NULL,
    error_code integer NOT NULL,
    detail text NOT NULL,
    epoch integer NOT NULL,
    serial bigint NOT NULL,
    changed_at timestamp with time zone NOT NULL,
    PRIMARY KEY (client_no, deployment_no, update_no),
    CHECK (((state >= 0) AND (state <= 14)))
);
CREATE INDEX update_enforcement_errors ON update_enforcement_states USING btree (error_code, client_no) WHERE (error_code <> 0);
CREATE INDEX update_enforcement_states_by_deployment ON update_enforcement_states USING btree (deployment_no);

CREATE TABLE update_leaf_needs (
    update_no integer NOT NULL,
    package text NOT NULL,
    first_seen_at timestamp with time zone NOT NULL DEFAULT now(),
    told boolean NOT NULL DEFAULT false,
    PRIMARY KEY (update_no, package)
);
CREATE INDEX update_leaf_needs_to_tell ON update_leaf_needs USING btree (update_no, package) WHERE (NOT told);

CREATE TABLE update_leaves (
    update_no integer NOT NULL,
    leaf_no integer NOT NULL,
    package text NOT NULL,
    version text NOT NULL,
    architecture text NOT NULL,
    phased_percentage smallint NOT NULL,
    sha256 bytea NOT NULL,
    size bigint NOT NULL,
    path text NOT NULL,
    archive_uri text NOT NULL,
    PRIMARY KEY (update_no, leaf_no),
    FOREIGN KEY (update_no) REFERENCES updates(update_no),
    CHECK ((length(sha256) = 32))
);

CREATE TABLE update_list_members (
    update_list_no integer NOT NULL,
    update_no integer NOT NULL,
    PRIMARY KEY (update_list_no, update_no),
    FOREIGN KEY (update_list_no) REFERENCES update_lists(update_list_no) ON DELETE CASCADE,
    FOREIGN KEY (update_no) REFERENCES updates(update_no)
);

CREATE TABLE update_list_trend (
    update_list_no integer NOT NULL,
    at timestamp with time zone NOT NULL,
    clients integer NOT NULL,
    compliant integer NOT NULL,
    non_compliant integer NOT NULL,
    unknown integer NOT NULL,
    no_data integer NOT NULL,
    PRIMARY KEY (update_list_no, at)
) PARTITION BY RANGE (at);

CREATE TABLE update_lists (
    update_list_no integer NOT NULL GENERATED ALWAYS AS IDENTITY,
    update_list_id uuid NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT now(),
    owner_site_code text,
    UNIQUE (update_list_id),
    PRIMARY KEY (update_list_no)
);
CREATE UNIQUE INDEX update_lists_by_name ON update_lists USING btree (lower(name), owner_site_code) NULLS NOT DISTINCT;

CREATE TABLE updates (
    update_no integer NOT NULL,
    update_id text NOT NULL,
    revision integer NOT NULL,
    generation bigint NOT NULL,
    first_generation bigint NOT NULL,
    title text NOT NULL,
    description text NOT NULL,
    classification smallint NOT NULL,
    severity smallint NOT NULL,
    product text NOT NULL,
    suite text NOT NULL,
    source_package text NOT NULL,
    source_version text NOT NULL,
    cve_ids text[] NOT NULL,
    released_at timestamp with time zone,
    supersedes integer[] NOT NULL,
    superseded_by integer[] NOT NULL,
    expired boolean NOT NULL,
    expired_at timestamp with time zone,
    max_run_time_minutes integer NOT NULL,
    needs_exclusive_handling boolean NOT NULL,
    UNIQUE (update_id),
    PRIMARY KEY (update_no),
    CHECK ((update_no > 0))
);
CREATE INDEX updates_by_source_package ON updates USING btree (source_package text_pattern_ops, update_no);

CREATE TABLE waiting_updates (
    kind smallint NOT NULL,
    object_id uuid NOT NULL,
    update_no integer NOT NULL,
    PRIMARY KEY (kind, object_id, update_no),
    CHECK (((kind >= 2) AND (kind <= 4)))
);
CREATE INDEX waiting_updates_by_update ON waiting_updates USING btree (update_no);

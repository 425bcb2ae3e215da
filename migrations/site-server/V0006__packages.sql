-- Deployment packages: which updates' files belong on distribution points. `package_files` is
-- what should be there, derived from the updates and from what clients said they need;
-- `distribution_states` is what is there. A task brings the second closer to the first.
CREATE TABLE packages (
    package_no     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    package_id     uuid        NOT NULL UNIQUE,
    name           text        NOT NULL,
    all_leaves     boolean     NOT NULL,
    update_list_no integer     REFERENCES update_lists (update_list_no),
    created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX packages_by_name ON packages (lower(name));

CREATE TABLE package_updates (
    package_no integer NOT NULL REFERENCES packages (package_no) ON DELETE CASCADE,
    update_no  integer NOT NULL REFERENCES updates (update_no),
    PRIMARY KEY (package_no, update_no)
);

-- The binary packages that some client has installed of an update it requires. Only ever grows.
CREATE TABLE update_leaf_needs (
    update_no     integer     NOT NULL,  -- no foreign key: a client may know the update before the site does
    package       text        NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (update_no, package)
);

CREATE TABLE content_files (
    sha256      bytea  PRIMARY KEY CHECK (length(sha256) = 32),
    size        bigint NOT NULL,
    path        text   NOT NULL,
    archive_uri text   NOT NULL
);

CREATE TABLE package_files (
    package_no integer NOT NULL REFERENCES packages (package_no) ON DELETE CASCADE,
    sha256     bytea   NOT NULL REFERENCES content_files (sha256),
    PRIMARY KEY (package_no, sha256)
);
CREATE INDEX package_files_by_sha256 ON package_files (sha256);

CREATE TABLE distribution_states (
    distribution_point text        NOT NULL,
    sha256             bytea       NOT NULL REFERENCES content_files (sha256) ON DELETE CASCADE,
    -- 1 waiting, 2 fetching, 3 available, 4 failed (muster.content.v1.FileState), 5 to be removed
    state              smallint    NOT NULL CHECK (state BETWEEN 1 AND 5),
    bytes_fetched      bigint      NOT NULL DEFAULT 0,
    detail             text        NOT NULL DEFAULT '',
    changed_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (distribution_point, sha256)
);
CREATE INDEX distribution_states_by_sha256 ON distribution_states (sha256, state);

-- The vendor's signed suites as each distribution point was told to offer them.
CREATE TABLE published_suites (
    distribution_point text        NOT NULL,
    suite_key          text        NOT NULL CHECK (suite_key ~ '^[0-9a-f]{16}$'),
    suite              text        NOT NULL,
    archive_uri        text        NOT NULL,
    components         text[]      NOT NULL,
    architectures      text[]      NOT NULL,
    signed_by          text        NOT NULL,
    ignore_valid_until boolean     NOT NULL,
    snapshot_hash      bytea       NOT NULL,  -- of the names and hashes of its files
    published_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (distribution_point, suite_key)
);

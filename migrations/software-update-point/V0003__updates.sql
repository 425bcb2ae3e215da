-- A component of a suite, with what apt's pins can ask about it.
CREATE TABLE channels (
    channel_no             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    archive_uri            text    NOT NULL,
    suite                  text    NOT NULL,
    component              text    NOT NULL,
    origin                 text    NOT NULL,
    label                  text    NOT NULL,
    archive_suite          text    NOT NULL,  -- the Suite field: oldstable, where suite may be bookworm
    codename               text    NOT NULL,
    version                text    NOT NULL,
    not_automatic          boolean NOT NULL,
    but_automatic_upgrades boolean NOT NULL,
    UNIQUE (archive_uri, suite, component)
);

-- One source package version in one suite. A row is never deleted: numbers are known in the whole
-- hierarchy. What left the archive is expired, and is in force again when it comes back.
CREATE TABLE updates (
    update_no                integer     PRIMARY KEY CHECK (update_no > 0),
    update_id                text        NOT NULL UNIQUE,
    revision                 integer     NOT NULL,
    generation               bigint      NOT NULL,  -- in which it came or last changed
    scan_generation          bigint      NOT NULL,  -- the same, for what a scan can see
    first_generation         bigint      NOT NULL,
    channel_no               integer     NOT NULL REFERENCES channels (channel_no),
    source_package           text        NOT NULL,
    source_version           text        NOT NULL,
    title                    text        NOT NULL,
    description              text        NOT NULL,
    classification           smallint    NOT NULL,
    severity                 smallint    NOT NULL DEFAULT 0,
    cve_ids                  text[]      NOT NULL DEFAULT '{}',
    released_at              timestamptz NOT NULL,  -- the Date of the release in which it was first seen
    supersedes               integer[]   NOT NULL,
    superseded_by            integer[]   NOT NULL,
    expired_at               timestamptz,
    expired_generation       bigint,
    max_run_time_minutes     integer     NOT NULL DEFAULT 60,
    needs_exclusive_handling boolean     NOT NULL DEFAULT false,
    content                  bytea       NOT NULL CHECK (length(content) = 16),  -- digest of its leaves
    CHECK ((expired_at IS NULL) = (expired_generation IS NULL))
);
CREATE INDEX updates_by_generation ON updates (generation, update_no);

CREATE TABLE update_leaves (
    update_no         integer  NOT NULL REFERENCES updates (update_no),
    leaf_no           integer  NOT NULL,
    package           text     NOT NULL,
    version           text     NOT NULL,
    architecture      text     NOT NULL,
    phased_percentage smallint NOT NULL CHECK (phased_percentage BETWEEN 0 AND 100),
    sha256            bytea    NOT NULL CHECK (length(sha256) = 32),
    size              bigint   NOT NULL,
    path              text     NOT NULL,
    PRIMARY KEY (update_no, leaf_no)
);

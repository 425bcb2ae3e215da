-- What the software update point's catalog says, as far as the site needs it: to choose, to
-- deploy and to report. Rules stay at the software update point.
CREATE TABLE updates (
    update_no               integer     PRIMARY KEY CHECK (update_no > 0),
    update_id               text        NOT NULL UNIQUE,
    revision                integer     NOT NULL,
    generation              bigint      NOT NULL,  -- in which it came or last changed
    first_generation        bigint      NOT NULL,  -- clients with an older catalog have no data for it
    title                   text        NOT NULL,
    description             text        NOT NULL,
    classification          smallint    NOT NULL,
    severity                smallint    NOT NULL,
    product                 text        NOT NULL,
    suite                   text        NOT NULL,
    source_package          text        NOT NULL,
    source_version          text        NOT NULL,
    cve_ids                 text[]      NOT NULL,
    released_at             timestamptz,
    supersedes              integer[]   NOT NULL,
    superseded_by           integer[]   NOT NULL,
    expired                 boolean     NOT NULL,
    expired_at              timestamptz,
    max_run_time_minutes    integer     NOT NULL,
    needs_exclusive_handling boolean    NOT NULL
);
CREATE INDEX updates_by_source_package ON updates (source_package text_pattern_ops, update_no);

-- The binary packages of a bundle and the file of each.
CREATE TABLE update_leaves (
    update_no         integer  NOT NULL REFERENCES updates (update_no),
    leaf_no           integer  NOT NULL,
    package           text     NOT NULL,
    version           text     NOT NULL,
    architecture      text     NOT NULL,
    phased_percentage smallint NOT NULL,
    sha256            bytea    NOT NULL CHECK (length(sha256) = 32),
    size              bigint   NOT NULL,
    path              text     NOT NULL,
    archive_uri       text     NOT NULL,
    PRIMARY KEY (update_no, leaf_no)
);

-- What was last accepted of each suite that is followed: against rollback (release_date), to end
-- at once when nothing changed, and to show which signed files belong to the catalog.
CREATE TABLE suites (
    archive_uri        text        NOT NULL,
    suite              text        NOT NULL,
    followed_as        text        NOT NULL,  -- components and architectures; other ones mean another reading
    release_date       timestamptz NOT NULL,
    valid_until        timestamptz,
    not_automatic      boolean     NOT NULL,  -- left out when the machine's own sources are followed
    fully_applied      boolean     NOT NULL,  -- a delta leaves changes and expiries for the next full synchronisation
    inrelease_sha256   bytea       NOT NULL CHECK (length(inrelease_sha256) = 32),
    etag               text,
    last_modified      text,
    components         text[]      NOT NULL,
    architectures      text[]      NOT NULL,
    signed_by          text        NOT NULL,
    ignore_valid_until boolean     NOT NULL,
    paths              text[]      NOT NULL,  -- below dists/<suite>/, with the two arrays that follow
    hashes             bytea[]     NOT NULL,
    sizes              bigint[]    NOT NULL,
    PRIMARY KEY (archive_uri, suite)
);

-- The signed files of the newest generations, so that a distribution point can finish what it began.
CREATE TABLE snapshots (
    generation         bigint   NOT NULL,
    archive_uri        text     NOT NULL,
    suite              text     NOT NULL,
    components         text[]   NOT NULL,
    architectures      text[]   NOT NULL,
    signed_by          text     NOT NULL,
    ignore_valid_until boolean  NOT NULL,
    paths              text[]   NOT NULL,
    hashes             bytea[]  NOT NULL,
    sizes              bigint[] NOT NULL,
    PRIMARY KEY (generation, archive_uri, suite)
);

-- What reports said at the end of each period (an hour): the history that the tables of states,
-- overwritten in place, do not have. One partition per month, so that what is too old goes as a
-- whole. No foreign keys: a point outlives the list or deployment that it is about.
CREATE TABLE site_trend (
    at             timestamptz NOT NULL PRIMARY KEY,  -- when the period began
    clients        integer     NOT NULL,
    never_reported integer     NOT NULL,
    old_catalog    integer     NOT NULL,  -- reported against an older catalog than the site had
    scan_failed    integer     NOT NULL,
    non_compliant  integer     NOT NULL,  -- clients that require some update
    installed      bigint      NOT NULL,  -- updates, of all clients together, as the two below
    required       bigint      NOT NULL,
    unknown        bigint      NOT NULL
) PARTITION BY RANGE (at);

CREATE TABLE update_list_trend (
    update_list_no integer     NOT NULL,
    at             timestamptz NOT NULL,
    clients        integer     NOT NULL,  -- all of the site; the four below add up to it
    compliant      integer     NOT NULL,
    non_compliant  integer     NOT NULL,
    unknown        integer     NOT NULL,
    no_data        integer     NOT NULL,
    PRIMARY KEY (update_list_no, at)
) PARTITION BY RANGE (at);

CREATE TABLE deployment_trend (
    deployment_no integer     NOT NULL,
    at            timestamptz NOT NULL,
    clients       integer     NOT NULL,  -- of its collection
    states        smallint[]  NOT NULL,  -- of topic 301, ascending
    state_clients integer[]   NOT NULL,  -- one for each of states
    PRIMARY KEY (deployment_no, at)
) PARTITION BY RANGE (at);

-- Makes the partitions for the month of a moment, if they are not there.
CREATE FUNCTION make_trend_partitions(moment timestamptz) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    first timestamp := date_trunc('month', moment AT TIME ZONE 'UTC');
    parent text;
    child text;
    made integer := 0;
BEGIN
    FOREACH parent IN ARRAY ARRAY['site_trend', 'update_list_trend', 'deployment_trend'] LOOP
        child := parent || to_char(first, '_YYYY_MM');
        IF to_regclass(quote_ident(child)) IS NULL THEN
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                           child, parent, first AT TIME ZONE 'UTC',
                           (first + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

-- Drops the partitions of the months that ended before a moment.
CREATE FUNCTION drop_trend_partitions(moment timestamptz) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    child text;
    dropped integer := 0;
BEGIN
    FOR child IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent IN ('site_trend'::regclass, 'update_list_trend'::regclass,
                              'deployment_trend'::regclass)
          AND (to_date(right(c.relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
              <= moment
    LOOP
        EXECUTE format('DROP TABLE %I', child);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- Neighbouring sites compare what they hold, bucket by bucket: crate muster-link says which keys are
-- in which of the 1,024 buckets, and this is the same in SQL, so that some buckets are read alone.
CREATE FUNCTION link_bucket(key uuid) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT ((get_byte(sha256(uuid_send(key)), 6) & 3) << 8) | get_byte(sha256(uuid_send(key)), 7)
$$;
CREATE INDEX clients_by_bucket ON clients (link_bucket(client_id));

-- Buckets in which we had something else than the neighbour, and when that was seen last.
ALTER TABLE links
    ADD COLUMN differing bigint NOT NULL DEFAULT 0,
    ADD COLUMN differed_at timestamptz;

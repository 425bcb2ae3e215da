WITH page AS (
    SELECT * FROM updates
    WHERE update_no > $1 AND generation > $2
    ORDER BY update_no
    LIMIT $3
)
SELECT c.channel_no, c.archive_uri, c.suite, c.component, c.origin, c.label, c.archive_suite,
       c.codename, c.version, c.not_automatic, c.but_automatic_upgrades,
       u.update_no, u.update_id, u.revision, u.generation, u.source_package, u.source_version,
       u.title, u.description, u.classification, u.severity, u.cve_ids, u.released_at,
       u.supersedes, u.superseded_by, u.expired_at, u.max_run_time_minutes,
       u.needs_exclusive_handling,
       l.packages, l.versions, l.architectures, l.phased, l.hashes, l.sizes, l.paths,
       u.scan_generation, u.first_generation, u.expired_generation
FROM page u
JOIN channels c USING (channel_no)
CROSS JOIN LATERAL (
    SELECT coalesce(array_agg(package ORDER BY leaf_no), '{}') AS packages,
           coalesce(array_agg(version ORDER BY leaf_no), '{}') AS versions,
           coalesce(array_agg(architecture ORDER BY leaf_no), '{}') AS architectures,
           coalesce(array_agg(phased_percentage ORDER BY leaf_no), '{}') AS phased,
           coalesce(array_agg(sha256 ORDER BY leaf_no), '{}') AS hashes,
           coalesce(array_agg(size ORDER BY leaf_no), '{}') AS sizes,
           coalesce(array_agg(path ORDER BY leaf_no), '{}') AS paths
    FROM update_leaves WHERE update_no = u.update_no
) l
ORDER BY u.update_no

-- The reports, for people with psql. Each view counts the rows as they are now: the site server
-- answers the same from memory, in milliseconds. docs/operations.md lists them.

-- What the numbers of states mean, by topic: the words of `crates/muster-domain/src/states.rs`.
CREATE VIEW state_names (topic, state, name) AS VALUES
    (300::smallint, 0::smallint, 'compliance state unknown'),
    (300, 1, 'compliant'),
    (300, 2, 'non-compliant'),
    (300, 3, 'conflict detected'),
    (301, 0, 'enforcement state unknown'),
    (301, 1, 'installing update(s)'),
    (301, 2, 'waiting for restart'),
    (301, 3, 'waiting for another installation to complete'),
    (301, 4, 'successfully installed update(s)'),
    (301, 5, 'pending system restart'),
    (301, 6, 'failed to install update(s)'),
    (301, 7, 'downloading update(s)'),
    (301, 8, 'downloaded update(s)'),
    (301, 9, 'failed to download update(s)'),
    (301, 10, 'waiting for maintenance window before installing'),
    (301, 11, 'waiting for orchestration'),
    (301, 12, 'waiting for superseding update'),
    (302, 0, 'evaluation state unknown'),
    (302, 1, 'evaluation activated'),
    (302, 2, 'evaluation succeeded'),
    (302, 3, 'evaluation failed'),
    (402, 0, 'enforcement state unknown'),
    (402, 1, 'enforcement started'),
    (402, 2, 'waiting for content'),
    (402, 3, 'waiting for another installation'),
    (402, 4, 'waiting for maintenance window'),
    (402, 5, 'restart required before installing'),
    (402, 6, 'general failure'),
    (402, 7, 'pending installation'),
    (402, 8, 'installing'),
    (402, 9, 'pending system restart'),
    (402, 10, 'successfully installed'),
    (402, 11, 'failed to install'),
    (402, 12, 'downloading'),
    (402, 13, 'downloaded'),
    (402, 14, 'failed to download'),
    (500, 0, 'unknown'),
    (500, 1, 'not required'),
    (500, 2, 'required'),
    (500, 3, 'installed'),
    (501, 0, 'scan state unknown'),
    (501, 1, 'scan is waiting for content'),
    (501, 2, 'scan is running'),
    (501, 3, 'scan completed'),
    (501, 4, 'scan is pending retry'),
    (501, 5, 'scan failed'),
    (501, 6, 'scan completed with errors');
COMMENT ON VIEW state_names IS 'What the numbers of states mean, by topic.';

CREATE VIEW update_compliance AS
SELECT u.update_no, u.update_id, u.title, f.clients, COALESCE(k.installed, 0) AS installed,
       COALESCE(k.required, 0) AS required, COALESCE(k.unknown, 0) AS unknown,
       f.clients - f.uninformed - (l.listed - e.early) AS not_required,
       f.uninformed - e.early AS no_data
FROM updates u
LEFT JOIN update_counters k USING (update_no)
CROSS JOIN LATERAL (
    SELECT COALESCE(k.installed, 0) + COALESCE(k.required, 0) + COALESCE(k.unknown, 0) AS listed) AS l
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS clients,
           (count(*) FILTER (WHERE r.client_no IS NULL
                                OR r.catalog_generation < u.first_generation))::integer AS uninformed
    FROM clients c LEFT JOIN client_compliance r USING (client_no)
    WHERE c.deleted_at IS NULL) AS f
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS early FROM client_compliance r
    WHERE r.catalog_generation < u.first_generation
      AND (u.update_no = ANY (r.installed) OR u.update_no = ANY (r.required)
           OR u.update_no = ANY (r.unknown))) AS e;
COMMENT ON VIEW update_compliance IS 'Clients by what they say of an update. Looks at all clients for each update: name one (WHERE update_no = ...). For all updates at once there is update_counters.';

CREATE VIEW update_list_clients AS
SELECT l.update_list_no, l.name AS update_list, c.client_no, c.client_id, c.host_name,
       CASE WHEN k.required && m.updates THEN 'non-compliant'
            WHEN k.unknown && m.updates THEN 'unknown'
            WHEN k.client_no IS NULL OR EXISTS (
                SELECT FROM update_list_members n LEFT JOIN updates u USING (update_no)
                WHERE n.update_list_no = l.update_list_no
                  AND (u.update_no IS NULL OR u.first_generation > k.catalog_generation)
                  AND n.update_no <> ALL (k.installed)) THEN 'no data'
            ELSE 'compliant' END AS answer
FROM update_lists l
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(update_no), '{}') AS updates FROM update_list_members n
    WHERE n.update_list_no = l.update_list_no) AS m
CROSS JOIN clients c
LEFT JOIN client_compliance k USING (client_no)
WHERE c.deleted_at IS NULL;
COMMENT ON VIEW update_list_clients IS 'What each client says of each update list: compliant, non-compliant, unknown or no data. Name a list (WHERE update_list = ...).';

CREATE VIEW update_list_compliance AS
SELECT update_list_no, update_list, count(*)::integer AS clients,
       (count(*) FILTER (WHERE answer = 'compliant'))::integer AS compliant,
       (count(*) FILTER (WHERE answer = 'non-compliant'))::integer AS non_compliant,
       (count(*) FILTER (WHERE answer = 'unknown'))::integer AS unknown,
       (count(*) FILTER (WHERE answer = 'no data'))::integer AS no_data
FROM update_list_clients GROUP BY update_list_no, update_list;
COMMENT ON VIEW update_list_compliance IS 'Clients by what they say of an update list. Name a list (WHERE update_list = ...).';

CREATE VIEW deployment_client_states AS
SELECT d.deployment_no, d.name AS deployment, c.client_no, c.client_id, c.host_name,
       COALESCE(s.compliance, 0::smallint) AS compliance,
       COALESCE(s.enforcement, 0::smallint) AS enforcement, n.name AS enforcement_name,
       COALESCE(s.evaluation, 0::smallint) AS evaluation, COALESCE(s.error_code, 0) AS error_code,
       COALESCE(s.detail, '') AS detail, s.changed_at
FROM deployments d
JOIN clients c ON c.deleted_at IS NULL
 AND (d.collection_no = 1 OR EXISTS (SELECT FROM collection_members m
      WHERE m.collection_no = d.collection_no AND m.client_no = c.client_no))
LEFT JOIN deployment_states s
  ON s.client_no = c.client_no AND s.deployment_no = d.deployment_no
LEFT JOIN state_names n ON n.topic = 301 AND n.state = COALESCE(s.enforcement, 0::smallint);
COMMENT ON VIEW deployment_client_states IS 'How far each client of a deployment''s collection is; one that said nothing is in state 0.';

CREATE VIEW deployment_state_counts AS
SELECT deployment_no, deployment, enforcement, enforcement_name, count(*)::integer AS clients
FROM deployment_client_states
GROUP BY deployment_no, deployment, enforcement, enforcement_name;
COMMENT ON VIEW deployment_state_counts IS 'Clients of a deployment''s collection by state of topic 301.';

CREATE VIEW client_scans AS
SELECT c.client_no, c.client_id, c.host_name, COALESCE(s.state, 0::smallint) AS state,
       n.name AS state_name, COALESCE(s.error_code, 0) AS error_code,
       COALESCE(s.detail, '') AS detail, s.last_scanned_at, r.last_report_at
FROM clients c
LEFT JOIN scan_states s USING (client_no)
LEFT JOIN report_streams r USING (client_no)
LEFT JOIN state_names n ON n.topic = 501 AND n.state = COALESCE(s.state, 0::smallint)
WHERE c.deleted_at IS NULL;
COMMENT ON VIEW client_scans IS 'How the last scan of each client went.';

CREATE VIEW client_errors AS
SELECT c.client_no, c.client_id, c.host_name, d.name AS deployment, e.update_no, e.error_code,
       e.detail, e.changed_at
FROM (SELECT client_no, deployment_no, update_no, error_code, detail, changed_at
      FROM update_enforcement_states WHERE error_code <> 0
      UNION ALL
      SELECT client_no, deployment_no, NULL, error_code, detail, changed_at
      FROM deployment_states WHERE error_code <> 0) AS e
JOIN clients c USING (client_no)
JOIN deployments d USING (deployment_no);
COMMENT ON VIEW client_errors IS 'Errors of deployments; update_no is empty where the deployment as a whole failed.';

CREATE VIEW error_ranking AS
SELECT error_code, count(DISTINCT client_no)::integer AS clients,
       count(DISTINCT update_no)::integer AS updates, max(detail) AS example_detail
FROM client_errors GROUP BY error_code;
COMMENT ON VIEW error_ranking IS 'Errors of deployments with counts: ORDER BY clients DESC.';

CREATE VIEW clients_without_data AS
SELECT c.client_no, c.client_id, c.host_name, k.catalog_generation, r.last_report_at,
       CASE WHEN k.client_no IS NULL THEN 'never reported' ELSE 'old catalog' END AS why
FROM clients c
LEFT JOIN client_compliance k USING (client_no)
LEFT JOIN report_streams r USING (client_no)
WHERE c.deleted_at IS NULL
  AND (k.client_no IS NULL OR k.catalog_generation < (SELECT generation FROM catalog_state));
COMMENT ON VIEW clients_without_data IS 'Clients that never reported, or whose catalog is older than the site''s.';

CREATE VIEW named_update_list_trend AS
SELECT l.name AS update_list, t.* FROM update_list_trend t JOIN update_lists l USING (update_list_no);
COMMENT ON VIEW named_update_list_trend IS 'Compliance of update lists over time, one row per snapshot.';

CREATE VIEW named_deployment_trend AS
SELECT d.name AS deployment, t.deployment_no, t.at, s.state, n.name AS state_name, s.clients
FROM deployment_trend t
JOIN deployments d USING (deployment_no)
CROSS JOIN LATERAL unnest(t.states, t.state_clients) AS s (state, clients)
LEFT JOIN state_names n ON n.topic = 301 AND n.state = s.state;
COMMENT ON VIEW named_deployment_trend IS 'Clients of deployments by state of topic 301 over time.';

COMMENT ON VIEW client_compliance IS 'What each client says of all updates: numbers of updates by state, ascending. In none of the three: not required, if the catalog generation knows the update.';
COMMENT ON VIEW report_streams IS 'How far each client''s reports have been recorded.';
COMMENT ON VIEW update_counters IS 'Clients per update by what they say, exact at any time.';
COMMENT ON VIEW deployment_counters IS 'Clients per deployment, topic (300, 301, 302) and state, exact at any time; who said nothing is not counted.';
COMMENT ON VIEW recorded_totals IS 'Reports and states recorded since the site was made.';

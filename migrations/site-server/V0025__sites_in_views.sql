-- Reports in SQL of a site that has others below it: whose clients they are, and whose list or
-- deployment is meant where two sites have one of the same name (`CEN/June`).
CREATE VIEW sites_below (site_code, below_site_code) AS
WITH RECURSIVE pairs (site_code, below_site_code) AS (
    SELECT site_code, site_code FROM sites WHERE gone_at IS NULL
    UNION
    SELECT p.site_code, s.site_code FROM pairs p
    JOIN sites s ON s.parent_site_code = p.below_site_code AND s.gone_at IS NULL)
SELECT site_code, below_site_code FROM pairs;
COMMENT ON VIEW sites_below IS 'Each site with itself and all below it: WHERE site_code IN (SELECT below_site_code FROM sites_below WHERE site_code = ...).';

-- Ours is the only site without a record that no child told us of.
CREATE VIEW client_sites AS
SELECT client_no, COALESCE(owner_site_code, (
           SELECT site_code FROM sites WHERE via_site_code IS NULL AND record IS NULL)) AS site_code
FROM clients;
COMMENT ON VIEW client_sites IS 'The site that each client reports to.';

CREATE OR REPLACE VIEW update_list_clients AS
SELECT l.update_list_no, concat_ws('/', l.owner_site_code, l.name) AS update_list, c.client_no,
       c.client_id, c.host_name,
       CASE WHEN k.required && m.updates THEN 'non-compliant'
            WHEN k.unknown && m.updates THEN 'unknown'
            WHEN k.client_no IS NULL OR EXISTS (
                SELECT FROM update_list_members n LEFT JOIN updates u USING (update_no)
                WHERE n.update_list_no = l.update_list_no
                  AND (u.update_no IS NULL OR u.first_generation > k.catalog_generation)
                  AND n.update_no <> ALL (k.installed)) THEN 'no data'
            ELSE 'compliant' END AS answer,
       o.site_code
FROM update_lists l
CROSS JOIN LATERAL (
    SELECT COALESCE(array_agg(update_no), '{}') AS updates FROM update_list_members n
    WHERE n.update_list_no = l.update_list_no) AS m
CROSS JOIN clients c
JOIN client_sites o USING (client_no)
LEFT JOIN client_compliance k USING (client_no)
WHERE c.deleted_at IS NULL;

CREATE VIEW update_list_site_compliance AS
SELECT update_list_no, update_list, site_code, count(*)::integer AS clients,
       (count(*) FILTER (WHERE answer = 'compliant'))::integer AS compliant,
       (count(*) FILTER (WHERE answer = 'non-compliant'))::integer AS non_compliant,
       (count(*) FILTER (WHERE answer = 'unknown'))::integer AS unknown,
       (count(*) FILTER (WHERE answer = 'no data'))::integer AS no_data
FROM update_list_clients GROUP BY update_list_no, update_list, site_code;
COMMENT ON VIEW update_list_site_compliance IS 'Clients of each site by what they say of an update list. Name a list (WHERE update_list = ...).';

CREATE OR REPLACE VIEW deployment_client_states AS
SELECT d.deployment_no, concat_ws('/', d.owner_site_code, d.name) AS deployment, c.client_no,
       c.client_id, c.host_name, COALESCE(s.compliance, 0::smallint) AS compliance,
       COALESCE(s.enforcement, 0::smallint) AS enforcement, n.name AS enforcement_name,
       COALESCE(s.evaluation, 0::smallint) AS evaluation, COALESCE(s.error_code, 0) AS error_code,
       COALESCE(s.detail, '') AS detail, s.changed_at, o.site_code
FROM deployments d
JOIN clients c ON c.deleted_at IS NULL
 AND (d.collection_no = 1 OR EXISTS (SELECT FROM collection_members m
      WHERE m.collection_no = d.collection_no AND m.client_no = c.client_no))
JOIN client_sites o USING (client_no)
LEFT JOIN deployment_states s
  ON s.client_no = c.client_no AND s.deployment_no = d.deployment_no
LEFT JOIN state_names n ON n.topic = 301 AND n.state = COALESCE(s.enforcement, 0::smallint);

CREATE OR REPLACE VIEW client_scans AS
SELECT c.client_no, c.client_id, c.host_name, COALESCE(s.state, 0::smallint) AS state,
       n.name AS state_name, COALESCE(s.error_code, 0) AS error_code,
       COALESCE(s.detail, '') AS detail, s.last_scanned_at, r.last_report_at, o.site_code
FROM clients c
JOIN client_sites o USING (client_no)
LEFT JOIN scan_states s USING (client_no)
LEFT JOIN report_streams r USING (client_no)
LEFT JOIN state_names n ON n.topic = 501 AND n.state = COALESCE(s.state, 0::smallint)
WHERE c.deleted_at IS NULL;

CREATE OR REPLACE VIEW client_errors AS
SELECT c.client_no, c.client_id, c.host_name, concat_ws('/', d.owner_site_code, d.name) AS deployment,
       e.update_no, e.error_code, e.detail, e.changed_at, o.site_code
FROM (SELECT client_no, deployment_no, update_no, error_code, detail, changed_at
      FROM update_enforcement_states WHERE error_code <> 0
      UNION ALL
      SELECT client_no, deployment_no, NULL, error_code, detail, changed_at
      FROM deployment_states WHERE error_code <> 0) AS e
JOIN clients c USING (client_no)
JOIN client_sites o USING (client_no)
JOIN deployments d USING (deployment_no);

CREATE OR REPLACE VIEW clients_without_data AS
SELECT c.client_no, c.client_id, c.host_name, k.catalog_generation, r.last_report_at,
       CASE WHEN k.client_no IS NULL THEN 'never reported' ELSE 'old catalog' END AS why, o.site_code
FROM clients c
JOIN client_sites o USING (client_no)
LEFT JOIN client_compliance k USING (client_no)
LEFT JOIN report_streams r USING (client_no)
WHERE c.deleted_at IS NULL
  AND (k.client_no IS NULL OR k.catalog_generation < (SELECT generation FROM catalog_state));

CREATE OR REPLACE VIEW named_update_list_trend AS
SELECT concat_ws('/', l.owner_site_code, l.name) AS update_list, t.*
FROM update_list_trend t JOIN update_lists l USING (update_list_no);

CREATE OR REPLACE VIEW named_deployment_trend AS
SELECT concat_ws('/', d.owner_site_code, d.name) AS deployment, t.deployment_no, t.at, s.state,
       n.name AS state_name, s.clients
FROM deployment_trend t
JOIN deployments d USING (deployment_no)
CROSS JOIN LATERAL unnest(t.states, t.state_clients) AS s (state, clients)
LEFT JOIN state_names n ON n.topic = 301 AND n.state = s.state;

//! Whether two sites of a hierarchy hold the same, by ids: numbers are each site's own.

use tokio_postgres::Client;

/// Everything that a site holds of clients, one line for each row, sorted: of all its clients, or of
/// those that the child with this code told it of. A child's lines without, and its parent's with its
/// code, are the same once the link has nothing to say any more.
///
/// # Panics
/// When the database does not answer.
pub async fn clients_held(db: &Client, own_code: &str, via: Option<&str>) -> Vec<String> {
    // Each gives one text column; $1 is the site's own code, $2 the child's.
    const OF: &str = "JOIN clients c USING (client_no)
        WHERE c.deleted_at IS NULL AND ($2::text IS NULL OR c.via_site_code = $2)
          AND $1::text IS NOT NULL";
    const QUERIES: [(&str, &str); 8] = [
        (
            "client",
            "SELECT concat_ws('|', c.client_id, COALESCE(c.owner_site_code, $1), c.host_name,
                    c.os_id, c.os_version_id, c.architecture, c.agent_version, c.epoch,
                    s.epoch, s.has_full, s.contiguous_serial)
             FROM report_streams s",
        ),
        (
            "compliance",
            // Where only the client's mark moved on, the row may have stayed.
            "SELECT concat_ws('|', c.client_id, k.epoch,
                    GREATEST(k.serial, CASE WHEN m.epoch = k.epoch THEN m.contiguous_serial END),
                    k.catalog_generation, k.installed, k.required, k.unknown)
             FROM (SELECT * FROM client_compliance
                   WHERE catalog_generation > 0 OR cardinality(installed || required || unknown) > 0)
                  AS k JOIN report_streams m USING (client_no)",
        ),
        (
            "deployment",
            "SELECT concat_ws('|', c.client_id, d.deployment_id, s.compliance, s.enforcement,
                    s.evaluation, s.error_code, s.detail, s.epoch, s.serial, s.changed_at)
             FROM deployment_states s JOIN deployments d USING (deployment_no)",
        ),
        (
            "enforcement",
            "SELECT concat_ws('|', c.client_id, d.deployment_id, s.update_no, s.state, s.error_code,
                    s.detail, s.epoch, s.serial, s.changed_at)
             FROM update_enforcement_states s JOIN deployments d USING (deployment_no)",
        ),
        (
            "scan",
            "SELECT concat_ws('|', c.client_id, s.state, s.last_scanned_at, s.error_code, s.detail,
                    s.epoch, s.serial)
             FROM scan_states s",
        ),
        (
            "restart",
            "SELECT concat_ws('|', c.client_id, s.pending, s.reason, s.epoch, s.serial)
             FROM restart_states s",
        ),
        (
            "inventory",
            "SELECT concat_ws('|', c.client_id, s.kernel, s.installed_packages, s.free_disk_bytes,
                    s.memory_bytes, s.epoch, s.serial)
             FROM inventories s",
        ),
        (
            "health",
            "SELECT concat_ws('|', c.client_id, s.healthy, s.problems, s.epoch, s.serial)
             FROM client_health s",
        ),
    ];
    let mut lines = Vec::new();
    for (kind, select) in QUERIES {
        let sql = format!("{select} {OF}");
        let rows = db
            .query(&sql, &[&own_code, &via])
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error:?}"));
        lines.extend(
            rows.iter()
                .map(|row| format!("{kind}|{}", row.get::<_, &str>(0))),
        );
    }
    lines.sort();
    lines
}

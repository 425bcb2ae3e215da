//! `migrations/site-server/schema.sql` shows what all migrations together make.

use std::fmt::Write;

use tokio_postgres::Row;

use crate::site::Site;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../migrations/site-server/schema.sql"
);
const HEADER: &str = "\
-- What the migrations of this folder make, for reading. Written by the site server's test
-- `schema`: change a table by a new migration, then run it with MUSTER_WRITE_SCHEMA=1.
";

#[tokio::test]
async fn the_shown_schema_is_what_the_migrations_make() {
    let site = Site::start().await;
    let is = describe(&site).await;
    if std::env::var_os("MUSTER_WRITE_SCHEMA").is_some() {
        std::fs::write(FILE, &is).unwrap();
    }
    let shown = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        shown == is,
        "schema.sql is old: run this test with MUSTER_WRITE_SCHEMA=1"
    );
}

async fn describe(site: &Site) -> String {
    const TABLES: &str = "
        SELECT c.oid, c.relname::text, COALESCE(' PARTITION BY ' || pg_get_partkeydef(c.oid), '')
        FROM pg_class c
        WHERE c.relnamespace = 'site'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition
          AND c.relname NOT IN ('leases', 'lease_signs', 'refinery_schema_history') ORDER BY c.relname";
    const COLUMNS: &str = "
        SELECT format('%s %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                      CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
                      CASE WHEN a.attidentity = 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
                           WHEN d.oid IS NOT NULL
                           THEN ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) ELSE '' END)
        FROM pg_attribute a
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    const CONSTRAINTS: &str = "
        SELECT replace(pg_get_constraintdef(oid), 'site.', '') FROM pg_constraint
        WHERE conrelid = $1 AND contype <> 'n' ORDER BY contype DESC, conname";
    const INDEXES: &str = "
        SELECT replace(pg_get_indexdef(i.indexrelid), 'site.', '') FROM pg_index i
        WHERE i.indrelid = $1
          AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid
                          AND c.contype IN ('p', 'u'))
        ORDER BY i.indexrelid::regclass::text";
    let db = site.pool.get().await.unwrap();
    let mut text = HEADER.to_owned();
    for table in db.query(TABLES, &[]).await.unwrap() {
        let (oid, name): (u32, String) = (table.get(0), table.get(1));
        let partitions: String = table.get(2);
        let line = |row: &Row| format!("    {}", row.get::<_, String>(0));
        let mut lines: Vec<String> = db
            .query(COLUMNS, &[&oid])
            .await
            .unwrap()
            .iter()
            .map(line)
            .collect();
        lines.extend(
            db.query(CONSTRAINTS, &[&oid])
                .await
                .unwrap()
                .iter()
                .map(line),
        );
        let lines = lines.join(",\n");
        write!(text, "\nCREATE TABLE {name} (\n{lines}\n){partitions};\n").unwrap();
        for index in db.query(INDEXES, &[&oid]).await.unwrap() {
            writeln!(text, "{};", index.get::<_, String>(0)).unwrap();
        }
    }
    text
}

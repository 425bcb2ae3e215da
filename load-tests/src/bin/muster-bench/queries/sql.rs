//! The limit: the same questions to the best SQL there is for them, over one row per client and
//! update with the index that answers them without touching the table.

use anyhow::Result;
use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use load_tests::fleet::{Member, uncell};
use load_tests::ground::Ground;

const TABLE: &str = "
    CREATE TABLE exploded (client_no integer, update_no integer, state smallint)";
const INDEX: &str = "
    CREATE INDEX exploded_by_update ON exploded (update_no, state, client_no)";

/// Clients of a list: non-compliant, and unknown but not non-compliant.
pub(super) const LIST: &str = "
    SELECT count(*) FILTER (WHERE required), count(*) FILTER (WHERE NOT required)
    FROM (SELECT client_no, bool_or(state = 2) AS required FROM exploded
          WHERE update_no = ANY ($1) AND state IN (0, 2) GROUP BY client_no) AS clients";
/// Clients of one update, by state.
pub(super) const UPDATE: &str = "
    SELECT state::int4, count(*) FROM exploded WHERE update_no = $1 GROUP BY state ORDER BY state";
/// The first clients that miss an update.
pub(super) const MISSING: &str = "
    SELECT c.client_no, c.client_id, c.host_name FROM exploded e JOIN clients c USING (client_no)
    WHERE e.update_no = $1 AND e.state = 2 ORDER BY e.client_no LIMIT 100";
/// The first clients that never said anything of any update.
pub(super) const SILENT: &str = "
    SELECT c.client_no, c.client_id, c.host_name FROM clients c
    WHERE NOT EXISTS (SELECT FROM client_compliance_rows r WHERE r.client_no = c.client_no)
    ORDER BY c.client_no LIMIT 100";
/// All counters.
pub(super) const ALL: &str = "
    SELECT count(*), sum(clients)::int8
    FROM (SELECT count(*) AS clients FROM exploded GROUP BY update_no, state) AS counters";

/// Builds the table: COPY, index, VACUUM.
pub(super) async fn explode(ground: &Ground, members: &[Member]) -> Result<()> {
    let db = ground.pool.get().await?;
    db.batch_execute(TABLE).await?;
    let sink = db.copy_in::<_, Bytes>("COPY exploded FROM STDIN (FORMAT binary)");
    let mut sink = std::pin::pin!(sink.await?);
    let mut buffer = BytesMut::with_capacity(300 * 1024);
    buffer.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for (member, client_no) in members.iter().zip(1_i32..) {
        for (number, state) in member.states.iter().map(|cell| uncell(*cell)) {
            buffer.put_i16(3);
            buffer.put_i32(4);
            buffer.put_i32(client_no);
            buffer.put_i32(4);
            buffer.put_u32(number.0);
            buffer.put_i32(2);
            buffer.put_i16(state.id().into());
        }
        if buffer.len() > 256 * 1024 {
            sink.feed(buffer.split().freeze()).await?;
            buffer.reserve(300 * 1024);
        }
    }
    buffer.put_i16(-1);
    sink.feed(buffer.freeze()).await?;
    sink.finish().await?;
    db.batch_execute("SET maintenance_work_mem = '512MB'")
        .await?;
    db.batch_execute(INDEX).await?;
    // Not in a transaction: the visibility map makes the scans read the index only.
    db.batch_execute("VACUUM (ANALYZE) exploded").await?;
    db.batch_execute("RESET maintenance_work_mem").await?;
    Ok(())
}

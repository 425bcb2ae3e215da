//! B8: a cold synchronisation, against decompressing the same bytes and copying them into a bare table.

use std::pin::pin;

use bytes::Bytes;
use futures::SinkExt;

use crate::archive::Archive;
use crate::measure::{Line, Report, Spent, Watch, median, peak_mib, reset_peak};
use crate::site::Site;
use crate::suites::{Suite, publish};

/// How often the unchanged one is repeated, since it is too short for the clock of the processor.
const UNCHANGED: u32 = 20;

pub(crate) async fn run(
    postgres: &muster_postgres::Config,
    suites: &[Suite],
    pairs: usize,
    report: &Report,
) -> anyhow::Result<bool> {
    let stanzas: usize = suites
        .iter()
        .flat_map(|suite| (0..suite.indexes.len()).map(|at| suite.text(at)))
        .map(|text| {
            text.split(|b| *b == b'\n')
                .filter(|line| line.starts_with(b"Package:"))
                .count()
        })
        .sum();
    let folder = tempfile::tempdir()?;
    let (mut cold, mut bare, mut unchanged, mut peaks, mut seen) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0);
    for pair in 0..pairs {
        let archive = Archive::start(folder.path()).await;
        publish(&archive, suites);
        let site = Site::start(postgres, &format!("bench_cold_{pair}"), &archive, suites).await?;
        reset_peak();
        let watch = Watch::start();
        let sync = site.full().await?;
        cold.push(watch.stop());
        peaks.push(peak_mib());
        seen = sync.stanzas - sync.stanzas_rejected;
        if pair == 0 {
            eprintln!(
                "{} suites, {} stanzas, {} updates, {} bytes fetched",
                suites.len(),
                sync.stanzas,
                sync.updates_new,
                sync.bytes_fetched
            );
        }
        let watch = Watch::start();
        for _ in 0..UNCHANGED {
            site.full().await?;
        }
        let spent = watch.stop();
        let each = f64::from(UNCHANGED);
        unchanged.push(Spent {
            wall: spent.wall / each,
            cpu: spent.cpu / each,
        });
        site.handle.stop().await;
        bare.push(copy_bare(postgres, suites).await?);
    }
    let wall = |spent: &[Spent]| median(spent.iter().map(|s| s.wall).collect());
    let cpu = |spent: &[Spent]| median(spent.iter().map(|s| s.cpu).collect());
    let line = |case, metric, value, limit, target| {
        report.line(&Line {
            bench: "catalog_cold_sync",
            case,
            metric,
            value,
            limit,
            target,
        })
    };
    #[allow(clippy::cast_precision_loss)]
    let missing = line(
        "cold",
        "stanzas_missing",
        (stanzas as u64 - seen) as f64,
        1.0,
        0.0,
    );
    let mut good = missing;
    good &= line("cold", "wall_s", wall(&cold), wall(&bare), 5.0);
    good &= line("cold", "peak_mib", median(peaks), 400.0, 1.0);
    good &= line("unchanged", "wall_s", wall(&unchanged), wall(&cold), 0.01);
    good &= line("unchanged", "cpu_s", cpu(&unchanged), cpu(&cold), 0.01);
    Ok(good)
}

/// The limit: decompress, and COPY every stanza as one text.
async fn copy_bare(postgres: &muster_postgres::Config, suites: &[Suite]) -> anyhow::Result<Spent> {
    let pool = muster_postgres::connect(postgres).await?;
    let db = pool.get().await?;
    db.batch_execute(
        "DROP TABLE IF EXISTS bench_bare; CREATE TABLE bench_bare (stanza text NOT NULL)",
    )
    .await?;
    let watch = Watch::start();
    let mut sink = pin!(db.copy_in::<_, Bytes>("COPY bench_bare FROM STDIN").await?);
    for suite in suites {
        for at in 0..suite.indexes.len() {
            let text = String::from_utf8(suite.text(at))?;
            let mut rows = String::with_capacity(1 << 20);
            for stanza in text.split("\n\n").filter(|stanza| !stanza.is_empty()) {
                for piece in stanza.split_inclusive(['\\', '\n', '\t']) {
                    let end = piece.len() - 1;
                    match piece.as_bytes()[end] {
                        b'\\' => rows.extend([&piece[..end], "\\\\"]),
                        b'\n' => rows.extend([&piece[..end], "\\n"]),
                        b'\t' => rows.extend([&piece[..end], "\\t"]),
                        _ => rows.push_str(piece),
                    }
                }
                rows.push('\n');
                if rows.len() > (1 << 20) - (1 << 16) {
                    sink.send(Bytes::from(std::mem::take(&mut rows))).await?;
                }
            }
            sink.send(Bytes::from(rows)).await?;
        }
    }
    sink.as_mut().finish().await?;
    let spent = watch.stop();
    db.batch_execute("DROP TABLE bench_bare").await?;
    Ok(spent)
}

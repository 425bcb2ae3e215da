//! What scans cost on the wire, beside Table 2 of the white paper; and whether they are right.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_apt::{Version, dpkg_status, packages};
use muster_proto::catalog as pb;
use muster_proto::catalog::scan_service_client::ScanServiceClient;
use muster_runtime::Tasks;
use muster_runtime::grpc::{ChannelOptions, channel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::archive::{Archive, xz};
use crate::measure::{Line, Report};
use crate::site::Site;
use crate::suites::{Suite, publish};

/// How many updates change for the third case.
const CHANGED: usize = 100;

pub(crate) async fn run(
    postgres: &muster_postgres::Config,
    suites: &[Suite],
    report: &Report,
) -> anyhow::Result<bool> {
    let folder = tempfile::tempdir()?;
    let archive = Archive::start(folder.path()).await;
    publish(&archive, suites);
    let site = Site::start(postgres, "bench_scan", &archive, suites).await?;
    site.full().await?;

    let installed: BTreeMap<String, Version> = dpkg_status::read_root(Path::new("/"))?
        .packages
        .into_iter()
        .filter(dpkg_status::Installed::is_present)
        .map(|held| (held.package, held.version))
        .collect();
    let names: Vec<String> = installed.keys().cloned().collect();
    eprintln!("{} packages installed", names.len());

    let tasks = Tasks::new();
    let (proxy, counted) = count(site.handle.addr(), &tasks).await?;
    let url = format!("https://{proxy}");
    let mut scans =
        ScanServiceClient::new(channel(&url, &site.client, &ChannelOptions::default())?)
            .accept_compressed(tonic::codec::CompressionEncoding::Zstd)
            .send_compressed(tonic::codec::CompressionEncoding::Zstd);
    let mut ask = async |base_generation: u64, packages: &[String]| -> anyhow::Result<_> {
        let request = pb::GetScanMetadataRequest {
            base_generation,
            packages: packages.to_vec(),
            architecture: "amd64".to_owned(),
            os_id: "debian".to_owned(),
            os_version_id: "12".to_owned(),
        };
        let before = counted.load(Ordering::SeqCst);
        let answer = scans.get_scan_metadata(request).await?.into_inner();
        // What is under way after the answer: window updates and pings.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Ok((answer, counted.load(Ordering::SeqCst) - before))
    };
    ask(0, &names[..1]).await?; // the connection and its handshake
    let (cold, cold_bytes) = ask(0, &names).await?;
    let (same, same_bytes) = ask(cold.generation, &[]).await?;
    anyhow::ensure!(same.updates.is_empty() && same.generation == cold.generation);

    change(&archive, suites);
    let sync = site.full().await?;
    let (changed, changed_bytes) = ask(cold.generation, &[]).await?;
    eprintln!(
        "{} updates for a cold scan, {} after {} changed",
        cold.updates.len(),
        changed.updates.len(),
        sync.updates_modified
    );
    anyhow::ensure!(
        changed.updates.len() == CHANGED,
        "not the updates that changed"
    );
    site.handle.stop().await;
    tasks.stop(std::time::Duration::from_secs(1)).await;

    let wrong = wrong(&cold, &installed, suites);
    #[allow(clippy::cast_precision_loss)]
    let line = |case, metric, value: u64, limit: u64, target| {
        let (value, limit) = (value as f64, limit as f64);
        report.line(&Line {
            bench: "scan_metadata",
            case,
            metric,
            value,
            limit,
            target,
        })
    };
    let mut good = line("cold", "wire_bytes", cold_bytes, 4_994 * 1024, 0.1);
    good &= line("no_change", "wire_bytes", same_bytes, 70 * 1024, 0.1);
    good &= line("no_change", "wire_bytes_of_1_kib", same_bytes, 1024, 1.0);
    good &= line("100_changed", "wire_bytes", changed_bytes, 245 * 1024, 0.1);
    good &= line("cold", "packages_wrong", wrong, 1, 0.0);
    Ok(good)
}

/// The packages about which the slice and all stanzas disagree.
fn wrong(
    cold: &pb::GetScanMetadataResponse,
    installed: &BTreeMap<String, Version>,
    suites: &[Suite],
) -> u64 {
    let mut from_slice = BTreeSet::new();
    for update in &cold.updates {
        for leaf in &update.leaves {
            let version = if leaf.version.is_empty() {
                &update.version
            } else {
                &leaf.version
            };
            let version: Version = version.parse().unwrap();
            if installed
                .get(&leaf.package)
                .is_some_and(|held| *held < version)
            {
                from_slice.insert(leaf.package.clone());
            }
        }
    }
    let mut from_all = BTreeSet::new();
    for suite in suites {
        for at in 0..suite.indexes.len() {
            let text = suite.text(at);
            for package in packages::Reader::new(&text[..]) {
                let Ok(package) = package.unwrap() else {
                    continue;
                };
                if installed
                    .get(&package.package)
                    .is_some_and(|held| *held < package.version)
                {
                    from_all.insert(package.package);
                }
            }
        }
    }
    eprintln!("{} packages have a newer version", from_all.len());
    from_slice.symmetric_difference(&from_all).count() as u64
}

/// Changes the size of one package in each of 100 source packages of the smallest suites.
fn change(archive: &Archive, suites: &[Suite]) {
    let suite = suites
        .iter()
        .find(|suite| suite.name.contains("security"))
        .unwrap_or(&suites[0]);
    let text = String::from_utf8(suite.text(0)).unwrap();
    let mut seen = BTreeSet::new();
    let mut changed = String::with_capacity(text.len());
    for stanza in text.split("\n\n").filter(|stanza| !stanza.is_empty()) {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
        };
        let source = if field("Source:").is_empty() {
            field("Package:")
        } else {
            field("Source:")
        };
        // Different sources are different updates, whatever their versions.
        let source = source.split(' ').next().unwrap_or_default().to_owned();
        let new = seen.len() < CHANGED && seen.insert(source);
        let size = format!("\nSize: {}", field("Size:"));
        changed.push_str(&if new {
            stanza.replacen(&size, &format!("{size}0"), 1)
        } else {
            stanza.to_owned()
        });
        changed.push_str("\n\n");
    }
    let mut release = crate::archive::Release::new(suite.name, "");
    release.files.clear();
    release.date = jiff::Timestamp::now();
    release.add(&suite.indexes[0].0, xz(changed.as_bytes()));
    for (path, bytes) in &suite.indexes[1..] {
        release.add(path, bytes.clone());
    }
    archive.publish(&release);
}

/// A proxy that counts what goes through it, both ways, TLS and HTTP/2 included.
async fn count(to: SocketAddr, tasks: &Tasks) -> anyhow::Result<(SocketAddr, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let counted = Arc::new(AtomicU64::new(0));
    let (counter, inner) = (Arc::clone(&counted), tasks.clone());
    tasks.spawn("proxy", async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else {
                return;
            };
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            for (mut from, mut into) in [(near_in, far_out), (far_in, near_out)] {
                let counter = Arc::clone(&counter);
                inner.spawn("proxy-half", async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(read @ 1..) = from.read(&mut buffer).await {
                        counter.fetch_add(read as u64, Ordering::SeqCst);
                        if into.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        }
    });
    Ok((addr, counted))
}

//! The agent ends at each of its failpoints, again and again: what the site holds in the end is
//! what the machine has (reliability.md F-02, the agent's part). A run that ends before its first
//! report leaves has everything asked for: decision 8. And the distribution point ends while it
//! gives a file its name.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hierarchy_tests::faults::ground::{Ground, UPDATES};
use hierarchy_tests::faults::schedule::Strike;
use hierarchy_tests::{repeats, say};
use muster_domain::states::Detection;
use muster_local::Service;
use muster_local::process::{Launch, Process};
use muster_proto::catalog::FileRef;
use muster_proto::content::content_service_client::ContentServiceClient;
use muster_proto::content::{EnsureContentRequest, FileState};
use muster_runtime::faults::POINTS;
use muster_runtime::grpc::{ChannelOptions, channel};
use sha2::{Digest, Sha256};
use uuid::Uuid;

const SERVERS: [Service; 3] = [
    Service::SiteServer,
    Service::DistributionPoint,
    Service::ManagementPoint,
];
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent as a process of its own.
struct Client {
    process: Process,
    folder: std::path::PathBuf,
    token: String,
}

impl Client {
    fn new(ground: &mut Ground, name: &str) -> Result<Self> {
        let folder = ground.folder().join("agents").join(name);
        fs::create_dir_all(&folder)?;
        let tokens = folder.join("token");
        ground.admin().tokens_to(&tokens, 1, None)?;
        let token = fs::read_to_string(&tokens)?.trim().to_owned();
        let launch = Self::launch(ground, &folder, &token, &[])?;
        Ok(Self {
            process: Process::spawn(ground.site().state(), launch)?,
            folder,
            token,
        })
    }

    fn launch(
        ground: &mut Ground,
        folder: &std::path::Path,
        token: &str,
        more: &[String],
    ) -> Result<Launch> {
        let ca = ground.site().ca();
        let point = ground.site().grpc(Service::ManagementPoint);
        Ok(Launch::new("agent", ground.site().program("muster-faulty"))
            .arg("agent")
            .arg("--state")
            .arg(folder.join("state"))
            .args(["--management-point", &point, "--token", token])
            .args(["--updates", &UPDATES.to_string()])
            .arg("--ca")
            .arg(ca)
            .args(more))
    }

    /// Starts it again so that it ends at a failpoint, and waits until it has.
    fn strike(&mut self, ground: &mut Ground, point: &str, nth: usize) -> Result<()> {
        self.process.kill_9()?;
        let before = hits(ground)?;
        let more = [
            "--abort".to_owned(),
            point.to_owned(),
            "--nth".to_owned(),
            nth.to_string(),
            "--journal".to_owned(),
            ground.hits().display().to_string(),
        ];
        let launch = Self::launch(ground, &self.folder, &self.token, &more)?;
        self.process.restart_as(launch)?;
        let status = self.process.wait_end(PATIENCE)?;
        ensure!(
            !status.success() && hits(ground)? == before + 1,
            "the agent did not end at {point} ({status}):\n{}",
            self.process.log_text()
        );
        Ok(())
    }

    /// Lets it report what is left; answers who it is and which updates are installed.
    fn finish(&mut self, ground: &mut Ground) -> Result<(Uuid, Vec<u32>)> {
        self.process.kill_9()?;
        let launch = Self::launch(ground, &self.folder, &self.token, &["--finish".to_owned()])?;
        self.process.restart_as(launch)?;
        let status = self.process.wait_end(PATIENCE)?;
        let said = self.process.log_text();
        ensure!(status.success(), "the agent did not finish:\n{said}");
        let line = |start: &str| {
            let line = said.lines().find_map(|it| it.strip_prefix(start));
            line.with_context(|| format!("no answer of the agent:\n{said}"))
        };
        let installed = line("installed: ")?.split_terminator(',');
        let installed = installed.filter_map(|it| it.parse().ok()).collect();
        Ok((line("client: ")?.parse()?, installed))
    }
}

fn hits(ground: &Ground) -> Result<usize> {
    Ok(fs::read_to_string(ground.hits())
        .unwrap_or_default()
        .lines()
        .count())
}

#[test]
fn an_agent_may_end_at_any_failpoint() -> Result<()> {
    let times = repeats(5)?;
    let mut ground = Ground::with("agent", &SERVERS)?;
    let mut client = Client::new(&mut ground, "one")?;
    let mut all = vec![];
    for point in POINTS.iter().filter(|it| it.starts_with("agent.")) {
        for nth in 1..=times {
            // A policy is applied once: for that each time it is another client.
            if *point == "agent.policy.applied" && nth > 1 {
                all.push(std::mem::replace(
                    &mut client,
                    Client::new(&mut ground, &format!("policy-{nth}"))?,
                ));
            }
            let policy = point.starts_with("agent.policy.");
            if policy && nth == 1 {
                all.push(std::mem::replace(
                    &mut client,
                    Client::new(&mut ground, point)?,
                ));
            }
            client.strike(&mut ground, point, if policy { 1 } else { nth * 2 })?;
        }
        say(&format!("{point}: hit {times}"));
    }
    all.push(client);
    for mut client in all {
        let (id, installed) = client.finish(&mut ground)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let snapshot = ground.snapshot()?;
            let held = snapshot
                .rows
                .get(&id)
                .context("the site does not know it")?;
            let expected = (1..=UPDATES).map(|update_no| {
                let state = if installed.contains(&update_no) {
                    Detection::Installed
                } else {
                    Detection::Required
                };
                (update_no, state.id())
            });
            if held.states == expected.collect() && !held.gap {
                ensure!(snapshot.counters_off() == 0, "counters are off");
                ensure!(snapshot.quarantined == 0, "poison from nowhere");
                break;
            }
            ensure!(
                Instant::now() < end,
                "the site holds {held:?}, installed are {installed:?}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    content(&mut ground, times)?;
    ground.end()
}

/// A file's bytes are there under its name, or not at all; and the next try has it.
fn content(ground: &mut Ground, times: usize) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let archive = format!("http://{}/debian", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream);
        }
    });
    let url = ground.site().grpc(Service::DistributionPoint);
    let tls = ground.way().tls("site-server");
    let ensure_content = |ground: &Ground, file: &FileRef| {
        let (tls, url, file) = (tls.clone(), url.clone(), file.clone());
        ground.runtime.block_on(async move {
            let channel = channel(&url, &tls, &ChannelOptions::default())?;
            let request = EnsureContentRequest { files: vec![file] };
            let answer = ContentServiceClient::new(channel)
                .ensure_content(request)
                .await?;
            let files = answer.into_inner().files;
            anyhow::Ok(files.first().context("one file")?.state())
        })
    };
    let folder = ground
        .site()
        .state()
        .root()
        .join("data/distribution-point/content");
    for point in POINTS.iter().filter(|it| it.starts_with("dp.")) {
        for at in 0..times {
            let path = format!("pool/{point}-{at}.deb");
            let bytes = body(&path);
            let digest = Sha256::digest(&bytes);
            let file = FileRef {
                sha256: digest.to_vec().into(),
                size: bytes.len() as u64,
                path,
                archive_uri: archive.clone(),
            };
            let strike = Strike {
                service: Service::DistributionPoint,
                point,
                nth: 1,
            };
            ground.strike(&strike, &[], |ground| {
                let _ = ensure_content(ground, &file);
                Ok(())
            })?;
            let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            let named = folder.join(&name[..2]).join(&name);
            ensure!(
                named.exists() == (*point == "dp.content.renamed"),
                "{point}"
            );
            ground.mend(Service::DistributionPoint)?;
            let end = Instant::now() + PATIENCE;
            while ensure_content(ground, &file)? != FileState::Available {
                ensure!(Instant::now() < end, "the file never came");
                std::thread::sleep(Duration::from_millis(100));
            }
            ensure!(fs::read(&named)? == bytes, "the name holds other bytes");
        }
        say(&format!("{point}: hit {times}"));
    }
    Ok(())
}

fn body(path: &str) -> Vec<u8> {
    path.bytes().cycle().take(200_000).collect()
}

/// One file over HTTP/1.1, and the connection ends.
fn serve(mut stream: std::net::TcpStream) -> Result<()> {
    let mut request = [0; 4_096];
    let read = stream.read(&mut request)?;
    let text = String::from_utf8_lossy(request.get(..read).unwrap_or_default()).into_owned();
    let path = text.split(' ').nth(1).context("no path")?;
    let body = body(path.trim_start_matches("/debian/"));
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(&body)?)
}

//! What packages say of their updates.

use std::io::Write;

use bytes::Bytes;
use muster_proto::content::FileState;

use super::world::{World, hex};

/// An entry of a tar archive: name, and content.
fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[148..156].copy_from_slice(b"        ");
    block[156] = b'0';
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = block.to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn deb(entries: &[Vec<u8>]) -> Bytes {
    let data = gzip(&[entries.concat(), vec![0; 1024]].concat());
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in [("debian-binary", &b"2.0\n"[..]), ("data.tar.gz", &data)] {
        let size = content.len();
        writeln!(out, "{name:<16}{:<32}{size:<10}`", 0).unwrap();
        out.extend(content);
        out.extend(if size % 2 == 1 { &b"\n"[..] } else { b"" });
    }
    out.into()
}

const PATH: &str = "pool/main/o/openssl/libssl3_3.0-1_amd64.deb";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_names_its_cves_and_says_how_urgent_it_is() {
    let mut world = World::start().await;
    let text = b"openssl (3.0-1) x; urgency=high\n\n  * CVE-2025-10000, CVE-2025-9230\n";
    let bytes = deb(&[
        entry("./usr/lib/libssl.so.3", &[7; 100_000]),
        entry("./usr/share/doc/libssl3/changelog.Debian.gz", &gzip(text)),
    ]);
    world.archive.put(PATH, bytes.clone());
    let file = world.archive.file(PATH, &bytes);
    let status = world.settled(&file).await;
    assert_eq!(status.state(), FileState::Available, "{status:?}");
    assert_eq!(status.cve_ids, ["CVE-2025-9230", "CVE-2025-10000"]);
    assert_eq!(status.urgency, "high");
    // What was read is kept, as long as the disk has it.
    let kept = world.data_dir().join("facts");
    world.restart().await;
    assert_eq!(world.settled(&file).await, status);
    std::fs::remove_dir_all(&kept).unwrap();
    world.restart().await;
    assert_eq!(world.settled(&file).await, status);
    assert!(kept.join(&hex(&file.sha256)[..2]).is_dir());
    assert_eq!(world.archive.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_that_says_nothing_or_is_a_bomb_is_available_all_the_same() {
    let world = World::start().await;
    let bomb = entry("./usr/lib/zeros", &vec![0; 64 << 20]);
    let after = entry("./usr/share/doc/libssl3/changelog.Debian.gz", &gzip(b"x"));
    let odd: [(&str, Bytes); 4] = [
        ("no package at all", Bytes::from_static(b"not a package")),
        ("no changelog", deb(&[entry("./usr/lib/x", b"x")])),
        ("compressed a thousand times", deb(&[bomb, after])),
        (
            "cut",
            deb(&[entry("./usr/lib/x", &[7; 100_000])]).slice(..150),
        ),
    ];
    for (n, (what, bytes)) in odd.into_iter().enumerate() {
        let path = format!("pool/{n}/libssl3_{n}_amd64.deb");
        world.archive.put(&path, bytes.clone());
        let status = world.settled(&world.archive.file(&path, &bytes)).await;
        assert_eq!(status.state(), FileState::Available, "{what}: {status:?}");
        assert!(
            status.cve_ids.is_empty() && status.urgency.is_empty(),
            "{what}"
        );
        assert_eq!(status.bytes_fetched, bytes.len() as u64, "{what}");
    }
}

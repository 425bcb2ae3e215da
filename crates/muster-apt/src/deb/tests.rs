//! Packages made here, whole and broken, and one that dpkg-deb made when it is installed.

use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::changelog::{Urgency, newest};

const TEXT: &str = "bash (5.2-1) bookworm; urgency=high\n\n  * CVE-2024-12345\n\n -- A <a@archive.example>  Tue, 30 Sep 2025 10:00:00 +0200\n";
const PATH: &str = "./usr/share/doc/bash/changelog.Debian.gz";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// An entry of a tar archive.
fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; BLOCK];
    let short = &name.as_bytes()[..name.len().min(100)];
    block[..short.len()].copy_from_slice(short);
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[148..156].copy_from_slice(b"        ");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    let sum: u32 = block.iter().map(|it| u32::from(*it)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut out = block.to_vec();
    out.extend(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
    out
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend([0; 2 * BLOCK]);
    out
}

fn deb(name: &str, data: &[u8]) -> Vec<u8> {
    let mut out = AR_MAGIC.to_vec();
    for (name, content) in [
        ("debian-binary", &b"2.0\n"[..]),
        ("control.tar.gz", b"odd"),
        (name, data),
    ] {
        let size = content.len();
        writeln!(
            out,
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`",
            0, 0, 0, 100_644
        )
        .unwrap();
        out.extend(content);
        out.extend(if size % 2 == 1 { &b"\n"[..] } else { b"" });
    }
    out
}

fn look(deb: &[u8]) -> Result<Option<String>, Error> {
    changelog(deb, "bash", Limits::default())
}

fn files() -> Vec<Vec<u8>> {
    vec![
        entry("./", b'5', b""),
        entry("./bin/bash", b'0', &[7; 3_000]),
        entry(
            "./usr/share/doc/bash-doc/changelog.Debian.gz",
            b'0',
            &gzip(b"other"),
        ),
        entry(PATH, b'0', &gzip(TEXT.as_bytes())),
        entry(
            "./usr/share/doc/bash/changelog.gz",
            b'0',
            &gzip(b"upstream"),
        ),
    ]
}

#[test]
fn the_changelog_is_found_however_the_data_is_compressed() {
    let tar = tar(&files());
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&tar).unwrap();
    let packed = [
        ("data.tar", tar.clone()),
        ("data.tar.gz", gzip(&tar)),
        ("data.tar.xz", xz.finish().unwrap()),
        ("data.tar.zst", zstd::encode_all(&tar[..], 1).unwrap()),
    ];
    for (name, data) in packed {
        assert_eq!(
            look(&deb(name, &data)).unwrap().as_deref(),
            Some(TEXT),
            "{name}"
        );
    }
    let found = newest(TEXT);
    assert_eq!((found.urgency, found.cves.len()), (Some(Urgency::High), 1));
}

#[test]
fn a_native_package_has_its_changelog_under_another_name() {
    let mut files = files();
    files.remove(3);
    files.push(entry("./usr/share/man/x", b'0', b"x"));
    let found = look(&deb("data.tar", &tar(&files))).unwrap();
    assert_eq!(found.as_deref(), Some("upstream"));
}

#[test]
fn links_and_packages_without_a_changelog_say_nothing() {
    for files in [
        vec![],
        vec![entry("./usr/share/doc/bash", b'2', b"")],
        vec![entry(PATH, b'2', b""), entry(PATH, b'1', b"")],
        vec![entry(&format!("./etc/{PATH}"), b'0', b"x")],
    ] {
        assert_eq!(look(&deb("data.tar", &tar(&files))).unwrap(), None);
    }
}

#[test]
fn a_name_that_is_longer_than_a_header_takes_is_read() {
    let package = "b".repeat(120);
    let name = format!("./usr/share/doc/{package}/changelog.Debian.gz");
    let files = [
        entry("././@LongLink", b'L', format!("{name}\0").as_bytes()),
        entry(&name, b'0', &gzip(TEXT.as_bytes())),
    ];
    let data = deb("data.tar", &tar(&files));
    let found = changelog(&data[..], &package, Limits::default()).unwrap();
    assert_eq!(found.as_deref(), Some(TEXT));
    let endless = entry("././@LongLink", b'L', &[b'x'; 5_000]);
    assert!(matches!(
        look(&deb("data.tar", &endless)),
        Err(Error::Format(_))
    ));
}

#[test]
fn a_bomb_costs_no_more_than_the_limits() {
    let limits = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    let data = tar(&[entry("./big", b'0', &vec![0; 4 << 20]), files()[3].clone()]);
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&data).unwrap();
    let bomb = deb("data.tar.xz", &xz.finish().unwrap());
    let Err(Error::Read(error)) = changelog(&bomb[..], "bash", limits) else {
        panic!("a bomb was read");
    };
    assert!(index::mismatch(&error).is_some(), "{error}");

    let many: Vec<_> = (0..20)
        .map(|n| entry(&format!("./{n}"), b'0', b""))
        .collect();
    let limits = Limits {
        entries: 10,
        ..Limits::default()
    };
    let many = deb("data.tar", &tar(&many));
    assert!(matches!(
        changelog(&many[..], "bash", limits),
        Err(Error::Entries(10))
    ));

    // A changelog is read only so far, so a bomb in its place is a short text.
    let limits = Limits {
        text: 1_000,
        ..Limits::default()
    };
    let inner = gzip(&vec![b'a'; 32 << 20]);
    let inner = deb("data.tar", &tar(&[entry(PATH, b'0', &inner)]));
    let found = changelog(&inner[..], "bash", limits).unwrap().unwrap();
    assert_eq!(found.len(), 1_000);
}

#[test]
fn what_is_cut_or_malformed_is_an_error() {
    let good = deb("data.tar", &tar(&files()));
    let header = AR_MAGIC.len() + AR_HEADER + 4;
    for cut in [0, 5, 30, header, header + 70, good.len() / 2] {
        assert!(look(&good[..cut]).is_err(), "{cut}");
    }
    let mut sum = good.clone();
    let at = good.windows(10).position(|it| it == b"./bin/bash").unwrap();
    sum[at] = b'x';
    assert!(matches!(look(&sum), Err(Error::Format(_))));
    assert!(look(&deb("data.tar.xz", b"not xz at all")).is_err());
    assert!(look(&deb("other", b"")).is_err(), "no data");
}

#[test]
fn a_package_of_dpkg_deb_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write(
        "DEBIAN/control",
        b"Package: bash\nVersion: 5.2-1\nArchitecture: all\nMaintainer: a <a@archive.example>\nDescription: x\n",
    );
    write("usr/bin/a", &[1; 100_000]);
    write(&PATH[2..], &gzip(TEXT.as_bytes()));
    let out = folder.path().join("bash.deb");
    let built = std::process::Command::new("dpkg-deb")
        .arg("--root-owner-group")
        .arg("--build")
        .args([&root, &out])
        .output();
    // Not every machine that builds Muster is a Debian one.
    if built.is_ok_and(|it| it.status.success()) {
        let file = std::fs::File::open(&out).unwrap();
        let found = changelog(file, "bash", Limits::default()).unwrap();
        assert_eq!(found.as_deref(), Some(TEXT));
    }
}

proptest! {
    #[test]
    fn no_change_of_a_byte_makes_the_look_panic(at in 0_usize..6_000, byte: u8) {
        let mut bytes = deb("data.tar", &tar(&files()));
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = look(&bytes);
    }
}

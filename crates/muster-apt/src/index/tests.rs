//! Every compression, and every way in which a fetched index can be wrong.

use super::*;
use proptest::prelude::*;
use std::io::Write;

fn file(bytes: &[u8]) -> File {
    File {
        size: bytes.len() as u64,
        sha256: Sha256::digest(bytes).into(),
    }
}

fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Plain => bytes.to_vec(),
        Compression::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
        Compression::Xz => {
            let mut out = Vec::new();
            liblzma::bufread::XzEncoder::new(bytes, 6)
                .read_to_end(&mut out)
                .unwrap();
            out
        }
        Compression::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        Compression::Lz4 => {
            let mut out = lz4_flex::frame::FrameEncoder::new(Vec::new());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        }
    }
}

fn index(compression: Compression, packed: &[u8], text: &[u8]) -> Index {
    let path = format!("main/binary-amd64/Packages{}", compression.suffix());
    let (compressed, plain) = (file(packed), Some(file(text)));
    Index {
        fetch_path: path.clone(),
        path,
        compression,
        compressed,
        plain,
    }
}

fn read(index: &Index, packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    open(index, packed, Limits::default())?
        .read_to_end(&mut out)
        .map(|_| out)
}

const ALL: [Compression; 5] = [
    Compression::Plain,
    Compression::Gzip,
    Compression::Xz,
    Compression::Zstd,
    Compression::Lz4,
];

#[test]
fn every_compression_is_read_and_verified_on_both_sides() {
    let text = "Package: a\nVersion: 1\n\n".repeat(500);
    for compression in ALL {
        let packed = pack(compression, text.as_bytes());
        let good = index(compression, &packed, text.as_bytes());
        assert_eq!(
            read(&good, &packed).unwrap(),
            text.as_bytes(),
            "{compression:?}"
        );
    }
}

#[test]
fn a_wrong_hash_a_wrong_size_and_a_cut_file_are_named() {
    let text = "Package: a\nVersion: 1\n\n".repeat(500);
    for compression in ALL {
        let packed = pack(compression, text.as_bytes());
        let good = index(compression, &packed, text.as_bytes());
        let mut other = good.clone();
        other.compressed.sha256[0] ^= 1;
        let error = read(&other, &packed).map(|_| ()).unwrap_err();
        assert!(
            matches!(mismatch(&error), Some(Mismatch::Hash { .. })),
            "{compression:?}: {error:?}"
        );
        let mut other = good.clone();
        other.compressed.size += 1;
        let error = read(&other, &packed).map(|_| ()).unwrap_err();
        assert!(
            matches!(mismatch(&error), Some(Mismatch::Size { .. })),
            "{compression:?}: {error:?}"
        );
        let mut other = good.clone();
        other.plain.as_mut().unwrap().sha256[0] ^= 1;
        let error = read(&other, &packed).map(|_| ()).unwrap_err();
        assert!(
            matches!(mismatch(&error), Some(Mismatch::Hash { .. })),
            "{compression:?}: {error:?}"
        );
        assert!(
            read(&good, &packed[..packed.len() - 5]).is_err(),
            "{compression:?} cut"
        );
        let mut longer = packed.clone();
        longer.push(0);
        assert!(read(&good, &longer).is_err(), "{compression:?} longer");
    }
}

#[test]
fn a_decompression_bomb_is_stopped_by_the_ratio_or_by_the_bytes() {
    let zeros = vec![b'0'; 40 << 20];
    for compression in [Compression::Gzip, Compression::Xz, Compression::Zstd] {
        let packed = pack(compression, &zeros);
        let read = |limits| {
            let mut reader = decompress(compression, "bomb", &packed[..], limits).unwrap();
            io::copy(&mut reader, &mut io::sink()).unwrap_err()
        };
        let error = read(Limits {
            bytes: 1 << 30,
            ratio: 20,
        });
        assert!(
            matches!(mismatch(&error), Some(Mismatch::Ratio { .. })),
            "{compression:?} {error}"
        );
        let error = read(Limits {
            bytes: 1 << 20,
            ratio: 1 << 40,
        });
        assert!(
            matches!(mismatch(&error), Some(Mismatch::Bomb { .. })),
            "{compression:?} {error}"
        );
    }
}

#[test]
fn more_plain_bytes_than_signed_end_the_reading_at_the_signed_size() {
    let packed = pack(Compression::Xz, &vec![b'0'; 4 << 20]);
    let mut small = index(Compression::Xz, &packed, b"");
    small.plain.as_mut().unwrap().size = 1000;
    let error = read(&small, &packed).map(|_| ()).unwrap_err();
    assert!(
        matches!(mismatch(&error), Some(Mismatch::Bomb { limit: 1000, .. })),
        "{error}"
    );
}

#[test]
fn xz_is_preferred_and_fetched_under_its_hash() {
    let hash = "ab".repeat(32);
    let release = |by_hash: &str, files: &str| {
        let text = format!("Date: Sat, 17 May 2025 08:45:30 UTC\n{by_hash}SHA256:\n{files}");
        Release::parse(&text).unwrap()
    };
    let lines = ["", ".gz", ".xz"]
        .map(|s| format!(" {hash} 9 main/binary-amd64/Packages{s}\n"))
        .concat();
    let found = choose(&release("Acquire-By-Hash: yes\n", &lines), "main", "amd64").unwrap();
    assert_eq!(found.compression, Compression::Xz);
    assert_eq!(
        found.fetch_path,
        format!("main/binary-amd64/by-hash/SHA256/{hash}")
    );
    assert!(found.plain.is_some());
    let gz = format!(" {hash} 9 main/binary-amd64/Packages.gz\n");
    let found = choose(&release("", &gz), "main", "amd64").unwrap();
    assert_eq!(
        (found.fetch_path.as_str(), found.plain),
        ("main/binary-amd64/Packages.gz", None)
    );
    assert_eq!(choose(&release("", &gz), "main", "arm64"), None);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in any::<Vec<u8>>()) {
        for compression in ALL {
            if let Ok(mut reader) = decompress(compression, "random", &bytes[..], Limits::default()) {
                let _ = io::copy(&mut reader, &mut io::sink());
            }
        }
    }
}

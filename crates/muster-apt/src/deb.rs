//! Looks into a Debian package (deb(5)) for its changelog, reading it once from the beginning and
//! never writing anything. A package is an `ar` archive of `debian-binary`, `control.tar.*` and
//! `data.tar.*`; the changelog is a file of the last one.
//!
//! The readers here are small on purpose: what they do not know they refuse, every length is
//! bounded, and nothing is allocated because a header says so.

use std::io::{self, Read};

use crate::index::{self, Compression};

/// The bounds of a look.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the package's files, decompressed, that are passed on the way.
    pub bytes: u64,
    /// Files that are passed on the way.
    pub entries: u32,
    /// Bytes that are taken from the changelog; its newest entry comes first.
    pub text: u64,
}

impl Default for Limits {
    /// 2 GiB, 200,000 files, 2 MiB of changelog.
    fn default() -> Self {
        Self {
            bytes: 2 << 30,
            entries: 200_000,
            text: 2 << 20,
        }
    }
}

/// Why a package cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or decompressing failed, or passed a limit (see [`index::mismatch`]).
    #[error("cannot read the package")]
    Read(#[from] io::Error),
    /// It is not a Debian package as dpkg makes them.
    #[error("not a package: {0}")]
    Format(&'static str),
    /// There are more files than allowed.
    #[error("more than {0} files")]
    Entries(u32),
}

/// Members of the `ar` archive that are looked at; dpkg writes three.
const MAX_MEMBERS: usize = 16;
/// The longest name that is read.
const MAX_NAME: u64 = 4_096;
const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
const AR_HEADER: usize = 60;
const BLOCK: usize = 512;

/// The changelog of `package` (a binary package's name) that `input` (a `.deb`) carries, or its
/// first [`Limits::text`] bytes: `changelog.Debian.gz`, else `changelog.gz` (native packages).
/// `None` when there is none: many packages have a link instead of a folder of their own.
///
/// # Errors
/// When the package cannot be read, is malformed, or passes a limit.
pub fn changelog(
    mut input: impl Read + Send,
    package: &str,
    limits: Limits,
) -> Result<Option<String>, Error> {
    let mut magic = [0; AR_MAGIC.len()];
    input.read_exact(&mut magic)?;
    if &magic != AR_MAGIC {
        return Err(Error::Format("no ar archive"));
    }
    for _ in 0..MAX_MEMBERS {
        let mut header = [0; AR_HEADER];
        input.read_exact(&mut header)?;
        let (name, size) = member(&header)?;
        let mut content = input.by_ref().take(size);
        if name.starts_with("data.tar") {
            let bounds = index::Limits {
                bytes: limits.bytes,
                ..index::Limits::default()
            };
            let tar = index::decompress(Compression::of_name(name), name, content, bounds)?;
            return in_tar(tar, package, limits);
        }
        skip(&mut content, size)?;
        if size % 2 == 1 {
            skip(&mut input, 1)?;
        }
    }
    Err(Error::Format("no data"))
}

/// Name and size of a member.
fn member(header: &[u8; AR_HEADER]) -> Result<(&str, u64), Error> {
    let malformed = || Error::Format("malformed ar header");
    if !header.ends_with(b"`\n") {
        return Err(malformed());
    }
    let text = std::str::from_utf8(header).map_err(|_| malformed())?;
    let field = |range| text.get(range).map(str::trim_end).ok_or_else(malformed);
    let size = field(48..58)?;
    if size.is_empty() || !size.bytes().all(|it| it.is_ascii_digit()) {
        return Err(malformed());
    }
    let name = field(0..16)?;
    let name = name.strip_suffix('/').unwrap_or(name);
    Ok((name, size.parse().map_err(|_| malformed())?))
}

fn in_tar(
    mut tar: impl Read + Send,
    package: &str,
    limits: Limits,
) -> Result<Option<String>, Error> {
    let folder = format!("usr/share/doc/{package}/");
    let (mut long_name, mut native) = (None, None);
    for _ in 0..limits.entries {
        let mut block = [0; BLOCK];
        tar.read_exact(&mut block)?;
        if block.iter().all(|it| *it == 0) {
            return Ok(native);
        }
        let header = Header::read(&block)?;
        let padded = header.size.next_multiple_of(BLOCK as u64);
        if header.kind == b'L' {
            // The name of the next entry, which is longer than a header takes.
            if header.size > MAX_NAME {
                return Err(Error::Format("a name is too long"));
            }
            let mut name = Vec::new();
            tar.by_ref().take(header.size).read_to_end(&mut name)?;
            skip(&mut tar, padded - name.len() as u64)?;
            name.retain(|it| *it != 0);
            long_name = Some(name);
            continue;
        }
        let name = long_name.take().unwrap_or(header.name);
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        let file = name.strip_prefix(folder.as_bytes());
        let regular = matches!(header.kind, b'0' | 0);
        match file {
            Some(b"changelog.Debian.gz") if regular => {
                return text(tar.take(header.size), limits.text).map(Some);
            }
            Some(b"changelog.gz") if regular => {
                let mut content = tar.by_ref().take(header.size);
                native = Some(text(&mut content, limits.text)?);
                let left = content.limit();
                skip(&mut tar, left + padded - header.size)?;
            }
            // Entries stand folder by folder: nothing better comes any more.
            None if native.is_some() => return Ok(native),
            _ => skip(&mut tar, padded)?,
        }
    }
    Err(Error::Entries(limits.entries))
}

/// What of a tar header matters here.
struct Header {
    name: Vec<u8>,
    size: u64,
    kind: u8,
}

impl Header {
    fn read(block: &[u8; BLOCK]) -> Result<Self, Error> {
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u64::from(*byte)
                }
            })
            .sum();
        if octal(&block[148..156]) != Some(sum) {
            return Err(Error::Format("a tar header's checksum is wrong"));
        }
        let kind = block[156];
        let size = octal(&block[124..136]).ok_or(Error::Format("malformed tar header"))?;
        // Links and folders have no content, whatever their size says.
        let size = if matches!(kind, b'1'..=b'6') { 0 } else { size };
        let mut name = until_zero(&block[..100]).to_vec();
        // POSIX splits long names in two; GNU, which dpkg writes, uses the field otherwise.
        let prefix = until_zero(&block[345..500]);
        if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        Ok(Self { name, size, kind })
    }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|it| *it == 0).next().unwrap_or_default()
}

/// A number of a tar header. Files of 8 GiB and more are written otherwise, and refused.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches([' ', '\0']);
    if text.is_empty() {
        return Some(0);
    }
    text.bytes().all(|it| it.is_ascii_digit()).then_some(())?;
    u64::from_str_radix(text, 8).ok()
}

/// Decompresses a changelog, as much of it as is wanted.
fn text(compressed: impl Read + Send, most: u64) -> Result<String, Error> {
    let limits = index::Limits {
        // No more than `most` is read, so neither needs a bound of its own.
        bytes: u64::MAX,
        ratio: u64::MAX,
    };
    let reader = index::decompress(Compression::Gzip, "changelog", compressed, limits)?;
    let mut bytes = Vec::new();
    reader.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn skip(input: &mut impl Read, bytes: u64) -> Result<(), Error> {
    let passed = io::copy(&mut input.take(bytes), &mut io::sink())?;
    if passed == bytes {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

#[cfg(test)]
mod tests;

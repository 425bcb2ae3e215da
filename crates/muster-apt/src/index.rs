//! Which index of a release to fetch, and the readers that make it safe to parse: size and SHA-256
//! are verified before and after decompression, and decompression is bounded in bytes and ratio.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use crate::release::{File, Release};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip, one or more members.
    Gzip,
    /// xz, one or more streams.
    Xz,
    /// Zstandard.
    Zstd,
    /// LZ4 frames, as apt keeps indexes on a machine.
    Lz4,
}

impl Compression {
    /// The ending of the file's name, with its dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Gzip => ".gz",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::Lz4 => ".lz4",
        }
    }

    /// What a file name's ending says.
    pub fn of_name(name: &str) -> Self {
        let all = [Self::Gzip, Self::Xz, Self::Zstd, Self::Lz4];
        all.into_iter()
            .find(|c| name.ends_with(c.suffix()))
            .unwrap_or(Self::Plain)
    }
}

/// An index that a release lists, as it should be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Its path below the suite's folder, such as `main/binary-amd64/Packages.xz`.
    pub path: String,
    /// Where to fetch it below the suite's folder: under its hash when the archive offers that, so
    /// that an archive which changes meanwhile cannot mix old and new; otherwise `path`.
    pub fetch_path: String,
    /// How it is compressed.
    pub compression: Compression,
    /// Size and hash as fetched.
    pub compressed: File,
    /// Size and hash after decompression, when the release lists them.
    pub plain: Option<File>,
}

/// Chooses the form of `{component}/binary-{architecture}/Packages` to fetch: xz, then zst, gz, plain.
/// `None` when the release lists none of them.
pub fn choose(release: &Release, component: &str, architecture: &str) -> Option<Index> {
    choose_file(
        release,
        &format!("{component}/binary-{architecture}/Packages"),
    )
}

/// The same for any listed file, named without its compression's ending.
pub fn choose_file(release: &Release, name: &str) -> Option<Index> {
    let preferred = [
        Compression::Xz,
        Compression::Zstd,
        Compression::Gzip,
        Compression::Plain,
    ];
    preferred.into_iter().find_map(|compression| {
        let path = format!("{name}{}", compression.suffix());
        let compressed = *release.file(&path)?;
        let fetch_path = match path.rsplit_once('/') {
            Some((folder, _)) if release.acquire_by_hash => {
                format!("{folder}/by-hash/SHA256/{}", hex::encode(compressed.sha256))
            }
            _ => path.clone(),
        };
        let plain = release.file(name).copied();
        Some(Index {
            path,
            fetch_path,
            compression,
            compressed,
            plain,
        })
    })
}

/// A file is not what the signed release says. Travels inside [`io::Error`]; see [`mismatch`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is longer or shorter.
    #[error("{name}: size {actual} is not the signed size {expected}")]
    Size {
        /// Which file.
        name: String,
        /// The signed size in bytes.
        expected: u64,
        /// The size seen; for a file that is too long, where reading stopped.
        actual: u64,
    },
    /// Its content differs.
    #[error("{name}: SHA-256 {actual} is not the signed {expected}")]
    Hash {
        /// Which file.
        name: String,
        /// The signed hash, hex.
        expected: String,
        /// The hash seen, hex.
        actual: String,
    },
    /// It decompresses to more bytes than allowed.
    #[error("{name}: decompresses to more than {limit} bytes")]
    Bomb {
        /// Which file.
        name: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// It decompresses to far more than its own size.
    #[error("{name}: decompresses to more than {limit} times its size")]
    Ratio {
        /// Which file.
        name: String,
        /// The limit.
        limit: u64,
    },
}

impl From<Mismatch> for io::Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::new(io::ErrorKind::InvalidData, mismatch)
    }
}

/// The check that failed, when `error` comes from a reader of this module.
pub fn mismatch(error: &io::Error) -> Option<&Mismatch> {
    let mut cause: &(dyn std::error::Error + 'static) = error.get_ref()?;
    loop {
        if let Some(found) = cause.downcast_ref::<Mismatch>() {
            return Some(found);
        }
        // Decoders wrap the error of the reader below them.
        cause = match cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => inner,
            None => cause.source()?,
        };
    }
}

/// Compares bytes that arrive piece by piece with the signed size and hash.
#[derive(Debug, Clone)]
pub struct Checker {
    name: String,
    expected: File,
    seen: u64,
    hash: Sha256,
}

impl Checker {
    /// For the file `name`, which only serves the error's text.
    pub fn new(name: impl Into<String>, expected: File) -> Self {
        Self {
            name: name.into(),
            expected,
            seen: 0,
            hash: Sha256::new(),
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// As soon as the file is longer than it may be, so that endless data ends early.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), Mismatch> {
        self.seen += bytes.len() as u64;
        if self.seen > self.expected.size {
            return Err(self.wrong_size());
        }
        self.hash.update(bytes);
        Ok(())
    }

    /// Bytes taken so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The verdict at the end of the file. May be asked again.
    ///
    /// # Errors
    /// When the file is shorter than signed or its hash differs.
    pub fn finish(&self) -> Result<(), Mismatch> {
        if self.seen != self.expected.size {
            return Err(self.wrong_size());
        }
        let actual = self.hash.clone().finalize();
        if actual[..] != self.expected.sha256 {
            let (name, expected) = (self.name.clone(), hex(&self.expected.sha256));
            return Err(Mismatch::Hash {
                name,
                expected,
                actual: hex(&actual),
            });
        }
        Ok(())
    }

    fn wrong_size(&self) -> Mismatch {
        let (expected, actual) = (self.expected.size, self.seen);
        Mismatch::Size {
            name: self.name.clone(),
            expected,
            actual,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A reader that fails at its end unless everything read was what the release says.
#[derive(Debug)]
pub struct CheckedReader<R> {
    input: R,
    checker: Checker,
    done: bool,
}

impl<R: Read> CheckedReader<R> {
    /// Checks what is read from `input`.
    pub fn new(input: R, checker: Checker) -> Self {
        Self {
            input,
            checker,
            done: false,
        }
    }
}

impl<R: Read> Read for CheckedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.input.read(buffer)?;
        if read == 0 {
            self.checker.finish()?;
            self.done = true;
        } else {
            self.checker.update(&buffer[..read])?;
        }
        Ok(read)
    }
}

/// The bounds of a decompression.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most bytes that may come out.
    pub bytes: u64,
    /// The most bytes that may come out for one that went in, beyond the first mebibyte.
    pub ratio: u64,
}

impl Default for Limits {
    /// 1 GiB and 200 to 1. Debian's main index is 50 MB and 6 to 1.
    fn default() -> Self {
        Self {
            bytes: 1 << 30,
            ratio: 200,
        }
    }
}

/// Memory that one xz stream may ask for: above `xz -9`, far below a bomb's dictionary.
const XZ_MEMORY: u64 = 128 << 20;

/// Decompresses `input` as it is read. `name` serves the error's text.
///
/// # Errors
/// When a decoder cannot be made. While reading: the decoder's errors (also for a file that ends too
/// early), and [`Mismatch::Bomb`] or [`Mismatch::Ratio`] when a limit is passed.
pub fn decompress<'a>(
    compression: Compression,
    name: &str,
    input: impl Read + Send + 'a,
    limits: Limits,
) -> io::Result<Box<dyn BufRead + Send + 'a>> {
    let taken = Arc::new(AtomicU64::new(0));
    let input = BufReader::with_capacity(
        64 << 10,
        Counting {
            input,
            taken: Arc::clone(&taken),
        },
    );
    let decoder: Box<dyn Read + Send + 'a> = match compression {
        Compression::Plain => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Xz => {
            use liblzma::stream::{CONCATENATED, Stream};
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(27)?; // 128 MiB
            Box::new(decoder)
        }
        Compression::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
    };
    let bounded = Bounded {
        input: decoder,
        name: name.to_owned(),
        limits,
        given: 0,
        taken,
    };
    Ok(Box::new(BufReader::with_capacity(64 << 10, bounded)))
}

/// Opens a fetched index for parsing: its compressed bytes are checked again as they are read, what
/// comes out is bounded, and checked too when the release lists the plain form. The verdict falls at
/// the end, so nothing that was parsed may be used before the reader has returned 0 bytes.
///
/// # Errors
/// As [`decompress`]; while reading, every [`Mismatch`].
pub fn open<'a>(
    index: &Index,
    compressed: impl Read + Send + 'a,
    limits: Limits,
) -> io::Result<Box<dyn BufRead + Send + 'a>> {
    let checker = Checker::new(&index.path, index.compressed);
    let checked = Shared(Arc::new(Mutex::new(CheckedReader::new(
        compressed, checker,
    ))));
    let rest = Shared(Arc::clone(&checked.0));
    // What the release lists is the tightest limit; one byte more is already an error.
    let bytes = index
        .plain
        .map_or(limits.bytes, |plain| limits.bytes.min(plain.size));
    let limits = Limits { bytes, ..limits };
    let text = decompress(index.compression, &index.path, checked, limits)?;
    let text = ToTheEnd { input: text, rest };
    Ok(match index.plain {
        None => Box::new(BufReader::with_capacity(64 << 10, text)),
        Some(plain) => {
            let checker = Checker::new(format!("{} decompressed", index.path), plain);
            Box::new(BufReader::with_capacity(
                64 << 10,
                CheckedReader::new(text, checker),
            ))
        }
    })
}

/// A reader with two owners: the decoder, and [`ToTheEnd`].
struct Shared<R>(Arc<Mutex<R>>);

impl<R: Read> Read for Shared<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = self
            .0
            .lock()
            .map_err(|_| io::Error::other("a reader panicked"))?;
        input.read(buffer)
    }
}

/// Some decoders stop at the end of their data without reading on to the end of the file, where the
/// verdict on the compressed bytes falls.
struct ToTheEnd<T, R> {
    input: T,
    rest: R,
}

impl<T: Read, R: Read> Read for ToTheEnd<T, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            io::copy(&mut self.rest, &mut io::sink())?; // at most the signed size
        }
        Ok(read)
    }
}

/// Counts what goes in.
struct Counting<R> {
    input: R,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.taken.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Bounds what comes out.
struct Bounded<R> {
    input: R,
    name: String,
    limits: Limits,
    given: u64,
    taken: Arc<AtomicU64>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.given += read as u64;
        let Limits { bytes, ratio } = self.limits;
        if self.given > bytes {
            return Err(Mismatch::Bomb {
                name: self.name.clone(),
                limit: bytes,
            }
            .into());
        }
        let taken = self.taken.load(Ordering::Relaxed);
        if self.given > taken.saturating_mul(ratio).saturating_add(1 << 20) {
            return Err(Mismatch::Ratio {
                name: self.name.clone(),
                limit: ratio,
            }
            .into());
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests;

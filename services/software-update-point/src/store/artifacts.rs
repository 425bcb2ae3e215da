//! The signed files of an archive, each under its SHA-256 in one folder. A name is only ever made of
//! the bytes of a hash, a file is complete and on disk before it has its name.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Artifacts {
    folder: PathBuf,
}

/// A file that is being written; removed unless it is kept.
#[derive(Debug)]
pub(crate) struct Draft {
    file: tempfile::NamedTempFile,
}

impl Artifacts {
    /// Opens or makes the folder below `data_dir` and removes what an earlier process left unfinished.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let folder = data_dir.join("artifacts");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if name_of(&path).is_none() {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder })
    }

    pub(crate) fn path(&self, sha256: &[u8; 32]) -> PathBuf {
        self.folder.join(hex::encode(sha256))
    }

    /// Whether a file is there with this size. Its content is checked again whenever it is read.
    pub(crate) fn has(&self, sha256: &[u8; 32], size: u64) -> bool {
        fs::metadata(self.path(sha256)).is_ok_and(|file| file.len() == size)
    }

    pub(crate) fn draft(&self) -> io::Result<Draft> {
        Ok(Draft {
            file: tempfile::NamedTempFile::new_in(&self.folder)?,
        })
    }

    /// Gives a draft whose hash was verified its name.
    pub(crate) fn keep(&self, draft: Draft, sha256: &[u8; 32]) -> io::Result<()> {
        draft.file.as_file().sync_all()?;
        draft
            .file
            .persist(self.path(sha256))
            .map_err(|error| error.error)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Removes every file that is not among `wanted`; returns how many.
    pub(crate) fn sweep(&self, wanted: &HashSet<[u8; 32]>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if name_of(&path).is_some_and(|hash| !wanted.contains(&hash)) {
                fs::remove_file(path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The hash that a file is named after.
fn name_of(path: &Path) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    hex::decode_to_slice(path.file_name()?.to_str()?, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_name_when_it_is_complete_and_goes_when_nobody_wants_it() {
        let data = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(data.path()).unwrap();
        let mut draft = artifacts.draft().unwrap();
        draft.write_all(b"abc").unwrap();
        assert!(!artifacts.has(&[1; 32], 3));
        artifacts.keep(draft, &[1; 32]).unwrap();
        assert!(artifacts.has(&[1; 32], 3) && !artifacts.has(&[1; 32], 4));
        fs::write(artifacts.folder.join(".tmpleft"), "x").unwrap();
        Artifacts::open(data.path()).unwrap();
        assert_eq!(fs::read_dir(&artifacts.folder).unwrap().count(), 1);
        assert_eq!(artifacts.sweep(&HashSet::from([[1; 32]])).unwrap(), 0);
        assert_eq!(artifacts.sweep(&HashSet::new()).unwrap(), 1);
    }
}

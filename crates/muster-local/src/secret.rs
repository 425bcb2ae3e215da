//! Generated passwords and the files they are kept in.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// 128 random bits as 32 hexadecimal digits: a password that needs no quoting anywhere.
#[must_use]
pub fn generate() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The secret in `path`; made there first (mode 0600) when the file does not exist.
///
/// # Errors
/// The file cannot be read or written.
pub fn read_or_create(path: &Path) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = generate();
            write_private(path, &secret)?;
            Ok(secret)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the file by one that only its owner can read, in one step.
///
/// # Errors
/// The file cannot be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let part = path.with_added_extension("new");
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(&part);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&part, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

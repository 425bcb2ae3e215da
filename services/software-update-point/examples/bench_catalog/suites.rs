//! The machine's own suites, fetched once.

use std::path::Path;

use anyhow::Context;
use muster_apt::index::{self, Compression, Limits};
use muster_apt::release::Release;
use muster_apt::sources;

use crate::archive::Archive;

/// A suite as the machine's archive has it.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// Path below the suite, and the compressed index.
    pub(crate) indexes: Vec<(String, Vec<u8>)>,
}

impl Suite {
    /// The text of an index.
    pub(crate) fn text(&self, at: usize) -> Vec<u8> {
        let (path, bytes) = &self.indexes[at];
        let mut text = Vec::new();
        let limits = Limits {
            bytes: 8 << 30,
            ratio: 1000,
        };
        let mut reader =
            index::decompress(Compression::of_name(path), path, &bytes[..], limits).unwrap();
        std::io::Read::read_to_end(&mut reader, &mut text).unwrap();
        text
    }
}

/// Reads the cache, and fills it from the machine's archives where it is empty.
pub(crate) async fn load(cache: &Path) -> anyhow::Result<Vec<Suite>> {
    std::fs::create_dir_all(cache)?;
    let client = reqwest::Client::new();
    let fetch = async |url: String, name: String| -> anyhow::Result<Vec<u8>> {
        let path = cache.join(name.replace('/', "_"));
        if let Ok(bytes) = std::fs::read(&path) {
            return Ok(bytes);
        }
        eprintln!("fetching {name}");
        let bytes = client
            .get(&url)
            .send()
            .await?
            .error_for_status()?
            .bytes()
            .await?
            .to_vec();
        std::fs::write(&path, &bytes)?;
        Ok(bytes)
    };
    let mut suites = Vec::new();
    for source in sources::read_root(Path::new("/"))?.sources {
        let base = format!("{}/dists/{}", source.uri, source.suite);
        let file = fetch(
            format!("{base}/InRelease"),
            format!("{}_InRelease", source.suite),
        )
        .await?;
        // Only to find the indexes: the bench measures what is verified, with its own signature.
        let text = String::from_utf8(file)?;
        let text = text.split_once("\n\n").context("no InRelease")?.1;
        let text = text
            .split_once("-----BEGIN PGP SIGNATURE")
            .context("no InRelease")?
            .0;
        let release = Release::parse(text)?;
        let mut indexes = Vec::new();
        for component in &source.components {
            let index = index::choose(&release, component, "amd64").context("no index")?;
            let name = format!("{}_{}", source.suite, index.path);
            let bytes = fetch(format!("{base}/{}", index.fetch_path), name).await?;
            indexes.push((index.path, bytes));
        }
        suites.push(Suite {
            name: source.suite.leak(),
            indexes,
        });
    }
    Ok(suites)
}

/// Serves the suites, signed by the archive's key, with a date of now.
pub(crate) fn publish(archive: &Archive, suites: &[Suite]) {
    for suite in suites {
        let mut release = crate::archive::Release::new(suite.name, "");
        release.files.clear();
        release.date = jiff::Timestamp::now();
        for (path, bytes) in &suite.indexes {
            release.add(path, bytes.clone());
        }
        archive.publish(&release);
    }
}

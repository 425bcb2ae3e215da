//! The signed files of a generation, for distribution points.

use std::path::PathBuf;

use super::{Error, Point};
use crate::domain::archive::SuiteSnapshot;
use crate::store;

/// The suites of a generation; 0 for the newest.
pub(crate) async fn archive_snapshot(
    point: &Point,
    generation: u64,
) -> Result<(u64, Vec<SuiteSnapshot>), Error> {
    let db = point
        .pool
        .get()
        .await
        .map_err(muster_postgres::Error::from)?;
    let wanted = (generation > 0).then_some(generation);
    let (found, suites) = store::suites::of_generation(&db, wanted).await?;
    match (suites.is_empty(), generation) {
        (true, 0) => Err(Error::NoCatalog),
        (true, generation) => Err(Error::UnknownSnapshot(generation)),
        (false, _) => Ok((found, suites)),
    }
}

/// Where a signed file lies.
pub(crate) fn artifact(point: &Point, sha256: &[u8]) -> Result<PathBuf, Error> {
    let sha256: [u8; 32] = sha256
        .try_into()
        .map_err(|_| Error::Invalid("sha256 must be 32 bytes".to_owned()))?;
    let path = point.artifacts.path(&sha256);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::UnknownArtifact)
    }
}

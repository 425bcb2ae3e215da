//! Who this client is, beside its database: what a client whose database is lost or damaged needs
//! to go on as the same client. It registers before it reports, for nobody knows any more which
//! serials it has given.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use muster_domain::ClientId;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::agent::write_file;
use crate::store::{Durability, Registration, Store, meta};

const FILE: &str = "identity.json";
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// The content of `identity.json`. Bytes are in hexadecimal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    client_id: String,
    site_code: String,
    epoch: u32,
    policy_keys: Vec<String>,
    /// An encoded `muster.client.v1.Locations`.
    locations: String,
}

/// Writes down who an enrolled client is, if the file does not say it yet.
pub(crate) fn keep(dir: &Path, store: &Store, durability: Durability) -> Result<(), Error> {
    let saved = store.read(|r| Ok((r.registration()?, r.bytes(meta::LOCATIONS)?)))?;
    let (Some(registration), locations) = saved else {
        return Ok(());
    };
    let identity = Identity {
        client_id: registration.client_id.to_string(),
        site_code: registration.site_code,
        epoch: registration.epoch,
        policy_keys: registration.policy_keys.iter().map(hex::encode).collect(),
        locations: hex::encode(locations.unwrap_or_default()),
    };
    if read(dir)?.as_ref() == Some(&identity) {
        return Ok(());
    }
    let text = serde_json::to_vec(&identity).map_err(|_| Error::Saved { what: FILE })?;
    write_file(&dir.join(FILE), &text, durability)
}

/// Tells an empty database who the client is.
pub(crate) fn bring_back(dir: &Path, store: &Store) -> Result<(), Error> {
    if store.registration()?.is_some() {
        return Ok(());
    }
    let Some(identity) = read(dir)? else {
        return Ok(());
    };
    let broken = || Error::Saved { what: FILE };
    let bytes = |text: &String| hex::decode(text).map_err(|_| broken());
    let client_id: ClientId = identity.client_id.parse().map_err(|_| broken())?;
    let keys = identity.policy_keys.iter().map(bytes);
    let registration = Registration {
        client_id,
        site_code: identity.site_code,
        epoch: identity.epoch,
        policy_keys: keys.collect::<Result<_, _>>()?,
    };
    let locations = bytes(&identity.locations)?;
    tracing::warn!(client.id = %client_id, "the database is empty, going on as the same client");
    store.write(|w| {
        w.set_registration(&registration)?;
        w.set_bytes(meta::LOCATIONS, &locations)?;
        w.set_number(meta::MUST_REGISTER, 1)
    })
}

/// A file that makes no sense counts as none.
fn read(dir: &Path) -> Result<Option<Identity>, Error> {
    let path = dir.join(FILE);
    match fs::metadata(&path) {
        Ok(found) if found.len() <= MAX_FILE => {}
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file(&path)(error)),
    }
    let bytes = fs::read(&path).map_err(Error::file(&path))?;
    Ok(serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!(%error, "{FILE} cannot be read"))
        .ok())
}

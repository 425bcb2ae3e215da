//! Debian archives and dpkg files, as pure functions over bytes and readers: no network, no clock, no tasks.
//!
//! In the order in which a synchronisation meets them:
//!
//! - [`sources`]: which suites a machine follows (`sources.list` and `.sources`);
//! - [`openpgp`]: is this `InRelease` signed by a key the machine trusts, and what exactly was signed;
//! - [`release`]: what the signed text says: dates, suite, sizes and hashes of the indexes;
//! - [`index`]: which index to fetch, and readers that check size, hash and decompression limits;
//! - [`stanza`]: the streaming reader below every deb822 file;
//! - [`packages`]: stanzas of a `Packages` index as [`packages::BinaryPackage`]s, or why one was refused;
//! - [`changelog`]: CVE ids and urgency from a Debian changelog;
//! - [`deb`]: the changelog that a package carries;
//!
//! and on the client:
//!
//! - [`dpkg_status`]: what is installed;
//! - [`version`]: Debian's version order;
//! - [`preferences`]: which version apt would choose, and why;
//! - [`phasing`]: whether apt would hold a phased update back on this machine.
//!
//! Everything that comes from outside is bounded, and no input makes a function here panic.

pub mod changelog;
pub mod deb;
pub mod dpkg_status;
mod glob;
pub mod index;
pub mod openpgp;
pub mod packages;
pub mod phasing;
pub mod preferences;
pub mod release;
pub mod sources;
pub mod stanza;
pub mod version;

pub use version::Version;

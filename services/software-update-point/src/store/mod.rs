//! Doors out: the catalog's tables, the folder of signed files, the archives, and the software update
//! point above.

pub(crate) mod artifacts;
pub(crate) mod catalog;
pub(crate) mod parent;
pub(crate) mod replicas;
pub(crate) mod suites;
pub(crate) mod syncs;
pub(crate) mod updates;
pub(crate) mod upstream;

/// Numbers of the database are signed; ours are never negative and far below the bound.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn to_i32(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(crate) fn to_u32(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// 32 bytes of a column that the table's check keeps at that length.
pub(crate) fn hash(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().unwrap_or([0; 32])
}

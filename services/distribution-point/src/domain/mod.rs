//! Rules that only a distribution point has: what a digest, an archive path and a suite key look
//! like, which part of a file an HTTP request gets, and what the offered archives consist of.

pub(crate) mod archive;
pub(crate) mod digest;
pub(crate) mod facts;
pub(crate) mod manifest;
pub(crate) mod range;
pub(crate) mod target;

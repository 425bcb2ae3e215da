//! What brings the content that is held closer to the content that should be.

mod fetch;
mod scrub;

pub(crate) use fetch::fetch_wanted;
pub(crate) use scrub::scrub_content;

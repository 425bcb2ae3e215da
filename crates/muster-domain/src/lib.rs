//! muster-domain

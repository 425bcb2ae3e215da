//! muster-compliance

//! distribution-point

//! distribution-point
fn main() {}

//! software-update-point
fn main() {}

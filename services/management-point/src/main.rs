//! management-point
fn main() {}

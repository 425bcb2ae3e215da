//! load-tests
fn main() {}

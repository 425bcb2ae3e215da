//! console-cli
fn main() {}

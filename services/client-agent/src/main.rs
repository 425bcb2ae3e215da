//! client-agent
fn main() {}

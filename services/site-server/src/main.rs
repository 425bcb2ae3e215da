//! site-server
fn main() {}

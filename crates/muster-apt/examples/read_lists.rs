//! Reads every `Packages` index that apt keeps on this machine and says how long it took:
//! `cargo run --release -p muster-apt --example read_lists`.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use muster_apt::index::{Compression, Limits, decompress};
use muster_apt::packages::Reader;

#[allow(clippy::print_stdout, reason = "an example talks to a person")]
fn main() -> std::io::Result<()> {
    for entry in std::fs::read_dir(Path::new("/var/lib/apt/lists"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if !name.contains("_Packages") {
            continue;
        }
        let start = Instant::now();
        let file = File::open(&path)?;
        let text = decompress(Compression::of_name(&name), &name, file, Limits::default())?;
        let (mut good, mut rejected) = (0, 0);
        for package in Reader::new(text) {
            match package? {
                Ok(_) => good += 1,
                Err(reason) => {
                    rejected += 1;
                    println!("  {reason}");
                }
            }
        }
        println!(
            "{name}: {good} packages, {rejected} rejected, {:?}",
            start.elapsed()
        );
    }
    Ok(())
}

//! The migrations are part of the program: a new file must make it be built again.

#[allow(clippy::print_stdout)] // how a build script talks to cargo
fn main() {
    println!("cargo:rerun-if-changed=../../migrations/software-update-point");
}

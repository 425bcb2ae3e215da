//! console-cli

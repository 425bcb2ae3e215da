//! Stories about one whole site, with real processes against the real archive.

mod kill_nine;
mod oracle;
mod tampering;

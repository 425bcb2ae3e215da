//! Stories about whole sites.

//! The door of the clients: HTTPS with client certificates, HTTP/1.1 and HTTP/2.

mod answer;
mod listener;

pub(crate) use listener::listen;

//! client-agent

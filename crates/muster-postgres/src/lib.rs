//! muster-postgres

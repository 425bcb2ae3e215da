//! management-point

//! software-update-point

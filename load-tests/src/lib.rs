//! Simulated clients: what pretend machines have installed ([`machines`]). The program
//! `muster-load` runs the real agent over them.

pub mod machines;

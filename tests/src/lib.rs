//! Test harness.

pub mod sim;

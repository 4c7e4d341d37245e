//! Tests of the whole: [`sim`] runs clusters in virtual time, [`harness`] runs real processes.

pub mod harness;
pub mod sim;

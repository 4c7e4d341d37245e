//! Tests of the whole: [`sim`] runs clusters in virtual time, [`harness`] runs real processes,
//! [`differential`] compares what they answer with what one SQLite database answers.

pub mod differential;
pub mod harness;
pub mod sim;

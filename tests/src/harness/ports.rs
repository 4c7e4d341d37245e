//! Free ports for processes that are killed and come back on the same ones.

#[path = "../../../deploy/src/commands/bench/own/ports.rs"]
mod search;

/// A port that nobody listens on at any loopback address.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` free ports in a row.
///
/// # Panics
/// When there is no such row.
pub fn free_ports(count: u32) -> u16 {
    search::free_ports(count).expect("free ports in a row")
}

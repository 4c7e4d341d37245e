//! Free ports for processes that are killed and come back on the same ones.
//!
//! They are taken below the range from which the operating system serves outgoing connections, so
//! that no connection sits on the port of a process that is down for the moment.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// First port that is tried.
const FIRST: u32 = 14_000;

/// One past the last.
const LAST: u32 = 32_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

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
    // Programs that run at the same time start at different places.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..(LAST - FIRST) {
        let offset = start.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed)) % (LAST - FIRST - count);
        let first = FIRST + offset;
        let free = |port: u32| TcpListener::bind(("0.0.0.0", port as u16)).is_ok();
        if (first..first + count).all(free) {
            return first as u16;
        }
    }
    panic!("no free port between {FIRST} and {LAST}");
}

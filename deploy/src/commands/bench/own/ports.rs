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

/// The first of `count` free ports in a row, at which nobody listens on any loopback address; none if
/// there is no such row.
pub fn free_ports(count: u32) -> Option<u16> {
    // Programs that run at the same time start at different places.
    let start = std::process::id().wrapping_mul(97);
    let rows = (0..(LAST - FIRST)).map(|_| {
        let offset = start.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed)) % (LAST - FIRST - count);
        FIRST + offset
    });
    let free = |port: u32| TcpListener::bind(("0.0.0.0", port as u16)).is_ok();
    rows.into_iter().find(|first| (*first..first + count).all(free)).map(|first| first as u16)
}

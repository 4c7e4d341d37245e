//! Many runs, on a few threads.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::scenario::{Report, run};
use super::world::Options;

/// Runs all seeds on `threads` threads and tells `each` about every run as it ends. Stops taking new
/// ones when `each` says false.
pub fn run_all(
    seeds: &[u64],
    threads: usize,
    options: impl Fn(u64) -> Options + Sync,
    each: impl FnMut(Report) -> bool + Send,
) {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let each = Mutex::new(each);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, seeds.len().max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    let report = run(&options(*seed));
                    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
                    if !each(report) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

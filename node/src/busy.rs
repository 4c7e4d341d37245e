//! How long background work has been under way, for `/metrics`.
//!
//! Input: whoever does the work holds a [`Working`] meanwhile. Output: the time during which at least one did,
//! work that has not ended included, so that two looks tell whether any was under way between them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time of one kind of work.
#[derive(Debug, Default)]
pub struct Busy(Mutex<Times>);

#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// Work under way, and since when there has been any.
    running: u32,
    since: Option<Instant>,
    /// What came before.
    ended: Duration,
}

/// Work under way; it ends with this value.
pub struct Working<'a>(&'a Busy);

impl Busy {
    /// Work begins.
    pub fn begin(&self) -> Working<'_> {
        let mut times = self.times();
        times.running += 1;
        times.since.get_or_insert_with(Instant::now);
        Working(self)
    }

    /// For how long there has been any.
    pub fn total(&self) -> Duration {
        let times = *self.times();
        times.ended + times.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let mut times = self.0.times();
        times.running -= 1;
        if times.running == 0
            && let Some(since) = times.since.take()
        {
            times.ended += since.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work that goes on counts already, work side by side counts once, and nothing counts in between.
    #[test]
    fn time_of_any_work() {
        let busy = Busy::default();
        assert_eq!(busy.total(), Duration::ZERO);
        let start = Instant::now();
        let (first, second) = (busy.begin(), busy.begin());
        while busy.total() < Duration::from_millis(2) {
            assert!(busy.total() <= start.elapsed());
        }
        drop(first);
        let (before, from) = (busy.total(), Instant::now());
        while busy.total() == before {
            assert!(from.elapsed() < Duration::from_secs(10), "work goes on, and its time does not");
        }
        drop(second);
        let ended = busy.total();
        assert!(ended <= start.elapsed(), "side by side counts once");
        let from = Instant::now();
        while from.elapsed() < Duration::from_millis(1) {}
        assert_eq!(busy.total(), ended);
    }
}

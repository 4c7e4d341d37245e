//! How fast the rows of a move are copied, where a job says how many bytes a second may move.
//!
//! Between moves the job waits anyway, by what it has moved. Here it waits within a move, so that one large slot
//! does not go at full speed: after each piece until its bytes were due. Only rows that are copied ahead
//! wait: what writers change meanwhile has to be copied faster than they change it, and nothing waits
//! under freeze. A driver that follows another one begins anew, a piece too early at most.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_shared::ids::MoveId;

/// Longest wait in one go: other jobs shall not wait for more than a second or so.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// When the next piece of each move may be copied, in microseconds since 1970.
#[derive(Default)]
pub(crate) struct Pace(Mutex<BTreeMap<MoveId, i64>>);

impl Pace {
    /// For how long the next piece of a move is held back.
    pub(super) fn held(&self, id: MoveId, now_us: i64) -> Duration {
        let due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        due.get(&id).map_or(Duration::ZERO, |due_us| {
            Duration::from_micros(u64::try_from(due_us.saturating_sub(now_us)).unwrap_or(0))
        })
    }

    /// Notes that a piece of so many bytes was copied.
    pub(super) fn copied(&self, id: MoveId, bytes: u64, bytes_per_second: u64, now_us: i64) {
        let took_us = u128::from(bytes) * 1_000_000 / u128::from(bytes_per_second.max(1));
        let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is due already holds nobody back, so only moves under way are kept.
        due.retain(|_, due_us| *due_us > now_us);
        let from_us = due.get(&id).copied().unwrap_or(now_us);
        due.insert(id, from_us.saturating_add(i64::try_from(took_us).unwrap_or(i64::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces that follow each other add up; time that has passed counts; moves do not hold up each other.
    #[test]
    fn pieces_are_held_back() {
        let (pace, id) = (Pace::default(), MoveId(1));
        let held_ms = |id, now_us| pace.held(id, now_us).as_millis();
        assert_eq!(held_ms(id, 5), 0);
        pace.copied(id, 500, 1000, 1_000_000);
        assert_eq!((held_ms(id, 1_000_000), held_ms(id, 1_400_000), held_ms(id, 1_600_000)), (500, 100, 0));
        pace.copied(id, 1000, 1000, 1_400_000);
        assert_eq!((held_ms(id, 1_400_000), held_ms(MoveId(2), 1_400_000)), (1100, 0));
        pace.copied(id, 10, 1000, 9_000_000);
        assert_eq!(held_ms(id, 9_000_000), 10);
        pace.copied(id, u64::MAX, 0, 9_000_000);
        assert!(pace.held(id, i64::MIN) > Duration::from_secs(1 << 40));
    }
}

//! A number of bytes that may be held at a time, by many who must not wait for it.
//!
//! Whoever takes some holds a [`Taken`] and gives it back by dropping it. Refused: what is over the budget.
//! The caller then says `overloaded`, since it may hold a connection or a lock and must not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A budget of bytes.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    taken_bytes: AtomicUsize,
}

/// Bytes of a budget; they go back with this value.
#[derive(Debug)]
pub struct Taken {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of which nothing is taken.
    pub fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, taken_bytes: AtomicUsize::new(0) })
    }

    /// Takes nothing yet; see [`Taken::more`].
    pub fn open(self: &Arc<Self>) -> Taken {
        Taken { budget: Arc::clone(self), bytes: 0 }
    }

    /// Takes that many bytes, if they are left.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let mut taken = self.open();
        taken.more(bytes).then_some(taken)
    }

    /// How many are taken now.
    pub fn taken_bytes(&self) -> usize {
        self.taken_bytes.load(Relaxed)
    }
}

impl Taken {
    /// Takes more, if that is left; otherwise what is held stays held.
    pub fn more(&mut self, bytes: usize) -> bool {
        // Nothing else is ordered by this number: it only has to be right in the end.
        let before = self.budget.taken_bytes.fetch_add(bytes, Relaxed);
        let fits = before.saturating_add(bytes) <= self.budget.limit_bytes;
        match fits {
            true => self.bytes += bytes,
            false => drop(self.budget.taken_bytes.fetch_sub(bytes, Relaxed)),
        }
        fits
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.taken_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last byte can be taken and no more; what was refused costs nothing, and all comes back.
    #[test]
    fn to_the_last_byte() {
        let budget = Budget::new(100);
        let mut first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        let second = budget.take(40).unwrap();
        assert!(!first.more(1));
        assert_eq!(budget.taken_bytes(), 100);
        drop(second);
        assert!(first.more(40));
        drop(first);
        assert_eq!(budget.taken_bytes(), 0);
    }
}

//! A bounded map from SQL text to what is known about it.
//!
//! Eviction is a sweep in the manner of the clock algorithm: over the bound, some of the entries
//! that were not used since the last sweep go. Readers only set a mark, so a hit costs one lookup.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dashmap::DashMap;

/// Statements kept: applications use some hundreds, and an entry takes a few kilobytes.
pub const MAX_CACHED_STATEMENTS: usize = 4096;

/// Bytes of SQL text kept, so that long statements do not crowd memory.
pub const MAX_CACHED_BYTES: usize = 32 << 20;

/// Longer statements are not kept: mostly literal rows that never come again.
pub const MAX_CACHED_STATEMENT_BYTES: usize = 64 << 10;

struct Entry<T> {
    value: Arc<T>,
    used: AtomicBool,
}

/// The cache.
pub struct Cache<T> {
    entries: DashMap<Box<str>, Entry<T>>,
    bytes: AtomicUsize,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: DashMap::new(), bytes: AtomicUsize::new(0) }
    }
}

impl<T> Cache<T> {
    /// What is kept for that text.
    pub fn get(&self, sql: &str) -> Option<Arc<T>> {
        let entry = self.entries.get(sql)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(Arc::clone(&entry.value))
    }

    /// Keeps a value, unless the text is too long.
    pub fn put(&self, sql: &str, value: Arc<T>) {
        if sql.len() > MAX_CACHED_STATEMENT_BYTES {
            return;
        }
        let entry = Entry { value, used: AtomicBool::new(false) };
        if self.entries.insert(sql.into(), entry).is_none() {
            self.bytes.fetch_add(sql.len(), Ordering::Relaxed);
        }
        while self.entries.len() > MAX_CACHED_STATEMENTS || self.bytes.load(Ordering::Relaxed) > MAX_CACHED_BYTES {
            self.sweep();
        }
    }

    /// Drops up to a quarter of the entries, of those that were not used since the last sweep. A
    /// second sweep finds none used, so the loop of [`put`](Self::put) ends.
    fn sweep(&self) {
        let mut to_drop = MAX_CACHED_STATEMENTS / 4;
        self.entries.retain(|sql, entry| {
            if entry.used.swap(false, Ordering::Relaxed) || to_drop == 0 {
                return true;
            }
            to_drop -= 1;
            self.bytes.fetch_sub(sql.len(), Ordering::Relaxed);
            false
        });
    }

    /// How many statements are kept.
    pub fn count(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cache stays within its bounds and keeps what is read again and again.
    #[test]
    fn bounded_and_keeps_hot_entries() {
        let cache = Cache::default();
        for n in 0..3 * MAX_CACHED_STATEMENTS {
            cache.put(&format!("SELECT {n}"), Arc::new(n));
            assert!(cache.count() <= MAX_CACHED_STATEMENTS);
            assert!(cache.get("SELECT 0").is_some(), "hot entry lost at {n}");
        }
        cache.put(&"x".repeat(MAX_CACHED_STATEMENT_BYTES + 1), Arc::new(0));
        assert!(cache.get(&"x".repeat(MAX_CACHED_STATEMENT_BYTES + 1)).is_none());
    }
}

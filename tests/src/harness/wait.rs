//! Waiting for conditions instead of for time.

use std::time::{Duration, Instant};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Longest that anything in a healthy cluster takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until `check` gives a value, and returns it.
///
/// # Panics
/// After `limit`, with the last reason that `check` gave.
pub async fn eventually<T>(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < deadline, "not within {limit:?}: {what}: {why}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

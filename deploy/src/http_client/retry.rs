//! Which outcome may be repeated, and when: pure decisions, acted on by [`super::Client`].
//!
//! A read may always be repeated. A write may be repeated after an unknown outcome only under its
//! `Idempotency-Key`, because then the server answers with the first result. A batch answers per
//! statement; when one of its statements failed for the moment, the whole batch is sent again under
//! its key, and the statements that were done answer with what they did.

use std::time::Duration;

use flotilla_shared::error::{Class, Code};
use hyper::Method;
use serde::Deserialize;

use super::{ApiError, Call, HttpError, Reply};

/// Why repeating a call does no harm, or that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeatable {
    /// It changes nothing.
    Read,
    /// It carries an `Idempotency-Key`.
    Keyed,
    /// A write without a key: only what surely did not happen is repeated.
    Once,
}

impl Repeatable {
    /// By method, path and key.
    pub fn of(call: &Call) -> Self {
        if call.key.is_some() {
            Self::Keyed
        } else if call.method == Method::GET || call.path.split('?').next() == Some("/query") {
            Self::Read
        } else {
            Self::Once
        }
    }
}

/// What to do with an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Report it.
    Final,
    /// Send again.
    Retry {
        /// For people.
        why: String,
        /// The server's `Retry-After`.
        at_least: Option<Duration>,
    },
}

/// Decides about one outcome.
pub fn decide(outcome: &Result<Reply, HttpError>, repeatable: Repeatable) -> Decision {
    let retry = |why: String, at_least| Decision::Retry { why, at_least };
    match outcome {
        Err(error @ HttpError::Connect(_)) => retry(error.to_string(), None),
        Err(error @ (HttpError::Broken(_) | HttpError::Timeout(_))) if repeatable != Repeatable::Once => {
            retry(error.to_string(), None)
        }
        Err(_) => Decision::Final,
        Ok(reply) => match reply.error().or_else(|| first_retriable(reply, repeatable)) {
            Some(error) if is_retriable(reply.status, &error, repeatable) => {
                retry(format!("{}: {}", error.code, error.message), reply.retry_after)
            }
            _ => Decision::Final,
        },
    }
}

fn is_retriable(status: u16, error: &ApiError, repeatable: Repeatable) -> bool {
    match Code::ALL.iter().find(|code| code.as_str() == error.code) {
        // A read that ran past its deadline would only do so again.
        Some(Code::Timeout) => repeatable != Repeatable::Read,
        Some(code) => match code.class() {
            Class::Refused => false,
            Class::Retry => true,
            Class::Unknown => repeatable == Repeatable::Keyed,
        },
        // A newer server, or something in between: its status is all that is known.
        None => matches!(status, 429 | 503),
    }
}

/// In a batch's reply, the first statement that failed for the moment.
fn first_retriable(reply: &Reply, repeatable: Repeatable) -> Option<ApiError> {
    #[derive(Deserialize)]
    struct Results {
        results: Vec<OneResult>,
    }
    #[derive(Deserialize)]
    struct OneResult {
        error: Option<ApiError>,
    }
    const MARK: &[u8] = b"\"error\"";
    // Most replies hold no error; do not parse those twice.
    if repeatable != Repeatable::Keyed || !reply.body.windows(MARK.len()).any(|window| window == MARK) {
        return None;
    }
    let results: Results = serde_json::from_slice(&reply.body).ok()?;
    results.results.into_iter().filter_map(|result| result.error).find(|e| is_retriable(reply.status, e, repeatable))
}

/// When to try again.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// After the first failure; doubles from there.
    pub first: Duration,
    /// No wait grows longer.
    pub longest: Duration,
    /// From the first attempt to the last.
    pub total: Duration,
}

impl Default for Schedule {
    /// 30 s in all: several elections, or the restart of a proxy.
    fn default() -> Self {
        Self { first: Duration::from_millis(50), longest: Duration::from_secs(2), total: Duration::from_secs(30) }
    }
}

impl Schedule {
    /// How long to wait after failed attempt number `attempt` (from 0), or `None` to give up.
    pub fn delay(&self, attempt: u32, elapsed: Duration, at_least: Option<Duration>) -> Option<Duration> {
        let grown = self.first.saturating_mul(1 << attempt.min(16)).min(self.longest);
        let delay = grown.max(at_least.unwrap_or_default());
        (elapsed + delay < self.total).then_some(delay)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn failed(status: u16, code: &str) -> Result<Reply, HttpError> {
        let body = format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
        Ok(Reply { status, retry_after: Some(Duration::from_secs(1)), body: Bytes::from(body) })
    }

    fn retries(outcome: &Result<Reply, HttpError>, repeatable: Repeatable) -> bool {
        decide(outcome, repeatable) != Decision::Final
    }

    /// The class of the code decides; an unknown outcome is repeated only under a key.
    #[test]
    fn codes() {
        use Repeatable::{Keyed, Once, Read};
        for (status, code, expected) in [
            (503, "not_leader", [true, true, true]),
            (429, "overloaded", [true, true, true]),
            (503, "from_the_future", [true, true, true]),
            (400, "sql_error", [false, false, false]),
            (409, "constraint", [false, false, false]),
            (504, "outcome_unknown", [false, true, false]),
            (504, "timeout", [false, true, true]),
            (500, "from_the_future", [false, false, false]),
        ] {
            let outcome = failed(status, code);
            let got = [Read, Keyed, Once].map(|repeatable| retries(&outcome, repeatable));
            assert_eq!(got, expected, "{status} {code}");
        }
        assert!(matches!(
            decide(&failed(503, "unavailable"), Keyed),
            Decision::Retry { at_least: Some(wait), .. } if wait.as_secs() == 1
        ));
    }

    /// Nothing sent: repeat anything. Perhaps sent: only reads and keyed writes.
    #[test]
    fn connections() {
        let refused = Err(HttpError::Connect("refused".into()));
        let broken = Err(HttpError::Broken("reset".into()));
        assert!(retries(&refused, Repeatable::Once));
        assert!(retries(&broken, Repeatable::Read) && retries(&broken, Repeatable::Keyed));
        assert!(!retries(&broken, Repeatable::Once));
        assert!(!retries(&Err(HttpError::TooLarge), Repeatable::Read));
    }

    /// One statement of a batch met an election: the batch is sent again; a constraint is final.
    #[test]
    fn batches() {
        let reply = |code: &str| {
            let body =
                format!(r#"{{"results":[{{"rows_affected":1}},{{"error":{{"code":"{code}","message":"m"}}}}]}}"#);
            Ok(Reply { status: 200, retry_after: None, body: Bytes::from(body) })
        };
        assert!(retries(&reply("unavailable"), Repeatable::Keyed));
        assert!(!retries(&reply("constraint"), Repeatable::Keyed));
        assert!(!retries(&reply("unavailable"), Repeatable::Read));
    }

    /// Waits double, respect the server's wish, and end with the total.
    #[test]
    fn schedule() {
        let schedule = Schedule::default();
        assert_eq!(schedule.delay(0, Duration::ZERO, None), Some(Duration::from_millis(50)));
        assert_eq!(schedule.delay(2, Duration::ZERO, None), Some(Duration::from_millis(200)));
        assert_eq!(schedule.delay(40, Duration::ZERO, None), Some(Duration::from_secs(2)));
        assert_eq!(schedule.delay(0, Duration::ZERO, Some(Duration::from_secs(5))), Some(Duration::from_secs(5)));
        assert_eq!(schedule.delay(9, Duration::from_secs(29), None), None);
    }
}

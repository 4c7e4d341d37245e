//! The one error type: a code that says what the caller may do, a message, and a hint.
//!
//! Errors arise in any layer, travel in frames and log replies, and become HTTP statuses in
//! [`Code::status`], the only place that maps them. Nobody matches on message text.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// What the caller may do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing was changed; the same request will be refused again.
    Refused,
    /// Nothing was changed; the same request may succeed later.
    Retry,
    /// It may or may not have happened; repeat it with the same `Idempotency-Key` to find out.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $class:ident, $status:literal;)*) => {
        /// Why a request failed. The text form is part of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The text form, as in `{"error":{"code":…}}`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What the caller may do.
            pub fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)* }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// The request itself is malformed.
    BadRequest = "bad_request", Refused, 400;
    /// No such path.
    NotFound = "not_found", Refused, 404;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", Refused, 405;
    /// SQLite refused the statement: its own words are the message.
    SqlError = "sql_error", Refused, 400;
    /// A constraint of the schema would be violated.
    Constraint = "constraint", Refused, 409;
    /// The statement names a table that does not exist.
    NoSuchTable = "no_such_table", Refused, 404;
    /// The statement is one that no client may run.
    Forbidden = "forbidden_statement", Refused, 403;
    /// Parameters and arguments do not match one to one.
    WrongArgCount = "wrong_arg_count", Refused, 400;
    /// A write statement came where only reads are served.
    NotARead = "not_a_read", Refused, 400;
    /// A body, statement, value or result is over a bound.
    TooLarge = "too_large", Refused, 413;
    /// A write would touch several shards.
    CrossShardWrite = "cross_shard_write", Refused, 400;
    /// The shard key has no value from which a slot could be computed.
    NoShardKey = "no_shard_key", Refused, 400;
    /// A list placement without a default does not list the key.
    UnlistedValue = "unlisted_value", Refused, 400;
    /// An UPDATE would change a shard key.
    ShardKeyUpdate = "shard_key_update", Refused, 400;
    /// A statement that the planner cannot route without guessing.
    Unroutable = "unroutable", Refused, 400;
    /// A registration that would be unsafe.
    UnsafeRegistration = "unsafe_registration", Refused, 400;
    /// The table is sharded already.
    AlreadyRegistered = "already_registered", Refused, 409;
    /// The call is part of the API but does not exist in this version.
    NotImplemented = "not_implemented", Refused, 501;
    /// No such job, node, shard or other object.
    NoSuchObject = "no_such_object", Refused, 404;
    /// What was asked contradicts the state of the cluster.
    Conflict = "conflict", Refused, 409;
    /// Another cluster, an unknown peer or a version too far apart.
    WrongPeer = "wrong_peer", Refused, 409;
    /// The request was planned against an ownership or schema that has changed.
    StaleRoute = "stale_route", Retry, 503;
    /// The peer's version is too far from this one's.
    IncompatibleVersion = "incompatible_version", Refused, 502;
    /// Rows on their way to another shard are not what they were.
    MoveMismatch = "move_mismatch", Refused, 500;
    /// A table or its values cannot be taken off that shard, or the shard not out of the cluster.
    CannotLeave = "cannot_leave", Refused, 409;
    /// This replica does not lead the group.
    NotLeader = "not_leader", Retry, 503;
    /// Nobody leads the group, or no majority answers.
    Unavailable = "unavailable", Retry, 503;
    /// A queue is full.
    Overloaded = "overloaded", Retry, 429;
    /// The process is stopping.
    ShuttingDown = "shutting_down", Retry, 503;
    /// The deadline passed before anything was sent, or a read took too long.
    Timeout = "timeout", Retry, 504;
    /// The deadline passed or the connection broke after a write was sent.
    OutcomeUnknown = "outcome_unknown", Unknown, 504;
    /// It was applied before, and its result is no longer kept.
    ResultForgotten = "result_forgotten", Refused, 409;
    /// A disk or a replica failed; the message says which.
    Storage = "storage", Unknown, 500;
    /// A fault of the program.
    Internal = "internal", Unknown, 500;
    /// This replica cannot tell that what it holds is new enough for the read.
    NotFresh = "not_fresh", Retry, 503;
    /// A statement before it in the same request failed.
    NotRun = "not_run", Refused, 409;
    /// Rows that a write was decided on were changed by others before it wrote them.
    RowsChanged = "rows_changed", Retry, 503;
}

impl Code {
    /// What to do next, for errors that do not say it themselves.
    pub fn hint(self) -> &'static str {
        match self {
            Self::BadRequest => "correct the request; nothing was changed",
            Self::NotFound => "see /execute, /query, /sql, /table, /shard, /node, /job, /status",
            Self::MethodNotAllowed => "use the method that the `Allow` header names",
            Self::SqlError => "correct the statement; the message is SQLite's own",
            Self::Constraint => "nothing was changed; correct the values, or use ON CONFLICT",
            Self::NoSuchTable => "GET /table lists the tables; create it first",
            Self::Forbidden => "ATTACH, transactions, most PRAGMAs and internal tables are not open to clients",
            Self::WrongArgCount => "give one argument for each parameter",
            Self::NotARead => "send writes to POST /execute",
            Self::TooLarge => "split it, or store large values in pieces",
            Self::CrossShardWrite => "fix the shard key in the statement, or send one statement per shard",
            Self::NoShardKey => "give the shard key a value",
            Self::UnlistedValue => "use one of the listed values",
            Self::ShardKeyUpdate => "delete the row and insert it with the new key",
            Self::Unroutable => "name the shard key with = or IN, and values or parameters",
            Self::UnsafeRegistration => "change the table as the message says, then register it again",
            Self::AlreadyRegistered => "a table's shard key stays; make a new table to shard it otherwise",
            Self::NotImplemented => "the README says what this version has",
            Self::NoSuchObject => "GET /shard, /node and /job list what is there",
            Self::Conflict => "look at GET /status, then decide anew",
            Self::WrongPeer => "check addresses and versions of the nodes",
            Self::IncompatibleVersion => crate::rpc::greeting::UPGRADE_HINT,
            Self::CannotLeave => "the message says what keeps it there",
            Self::MoveMismatch => "the rows stay where they were; check the disks and memory of both shards",
            Self::StaleRoute | Self::NotLeader | Self::Overloaded | Self::ShuttingDown => "retry after a moment",
            Self::RowsChanged => "nothing was changed; retry, or let fewer writers meet on the same rows",
            Self::NotFresh => "retry, or allow a longer `freshness`",
            Self::Unavailable => "retry; a majority of the group's nodes must be up",
            Self::Timeout => "retry, raise `timeout`, or narrow the statement",
            Self::OutcomeUnknown => "repeat the request with the same Idempotency-Key: it is applied once at most",
            Self::NotRun => "correct the statement that failed, and send this one with it",
            Self::ResultForgotten => "it was applied; read the rows to see what it did",
            Self::Storage => "look at the node's log; it may need a new disk",
            Self::Internal => "this is a fault of the program; its log says more",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{code}: {message}")]
pub struct Error {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// What to do next; empty for what [`Code::hint`] says.
    pub hint: String,
    /// With [`Code::NotLeader`]: who leads, as far as this replica knows.
    pub leader: Option<NodeId>,
}

impl Error {
    /// An error without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new(), leader: None }
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// This replica does not lead; `leader` does, if known.
    pub fn not_leader(leader: Option<NodeId>) -> Self {
        let message = match leader {
            Some(node) => format!("node {node} leads this group"),
            None => "this group has no leader at the moment".to_owned(),
        };
        Self { leader, ..Self::new(Code::NotLeader, message).hint("retry; a leader is elected within seconds") }
    }

    /// Rows that a write was decided on are not what they were.
    pub fn rows_changed() -> Self {
        Self::new(Code::RowsChanged, "rows were changed by others after they were read and before they were written")
    }

    /// What SQLite said about a statement, as a reply. The code depends on SQLite's result code
    /// alone, so that every replica gives the same.
    pub fn from_sqlite(error: &rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error {
            rusqlite::Error::SqliteFailure(failure, message) => {
                let text = message.clone().unwrap_or_else(|| failure.to_string());
                match failure.code {
                    _ if failure.extended_code == crate::sqlite::digest::ROWS_CHANGED => Self::rows_changed(),
                    ErrorCode::ConstraintViolation => Self::new(Code::Constraint, text),
                    ErrorCode::AuthorizationForStatementDenied => Self::new(Code::Forbidden, text)
                        .hint("ATTACH, transactions, most PRAGMAs and internal tables are not open to clients"),
                    ErrorCode::TooBig => Self::new(Code::TooLarge, text),
                    ErrorCode::OperationInterrupted => Self::new(Code::Timeout, "the statement ran past its deadline")
                        .hint("raise `timeout`, or narrow the statement"),
                    _ if text.starts_with("no such table") => Self::new(Code::NoSuchTable, text),
                    _ => Self::new(Code::SqlError, text),
                }
            }
            rusqlite::Error::SqlInputError { msg, .. } if msg.starts_with("no such table") => {
                Self::new(Code::NoSuchTable, msg.clone())
            }
            rusqlite::Error::SqlInputError { msg, error, .. }
                if error.code == ErrorCode::AuthorizationForStatementDenied =>
            {
                Self::new(Code::Forbidden, msg.clone())
                    .hint("ATTACH, transactions, most PRAGMAs and internal tables are not open to clients")
            }
            rusqlite::Error::SqlInputError { msg, .. } => Self::new(Code::SqlError, msg.clone()),
            rusqlite::Error::MultipleStatement => {
                Self::new(Code::BadRequest, "one statement at a time").hint("send several in `statements`")
            }
            other => Self::new(Code::SqlError, other.to_string()),
        }
    }

    /// The JSON body of an HTTP error.
    pub fn to_json(&self) -> serde_json::Value {
        let hint = if self.hint.is_empty() { self.code.hint() } else { &self.hint };
        serde_json::json!({ "error": { "code": self.code.as_str(), "message": self.message, "hint": hint } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a code is unique, snake_case and mapped to an error status.
    #[test]
    fn codes_are_unique() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!((400..600).contains(&code.status()));
            assert!(!code.hint().is_empty());
        }
    }
}

//! What can go wrong in the log, said so that the caller knows what to do.
//!
//! Input: failures of the [`Disk`](super::Disk) and broken promises found in files or calls. Output:
//! one [`LogError`], cloned to every caller that waits, and turned into [`std::io::Error`] at the
//! consensus library's traits. There is no error to retry: a failed write or sync poisons the log
//! until the process is restarted.

use std::io;
use std::sync::Arc;

use flotilla_shared::ids::GroupId;

/// Why the log refused or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// A file holds something that no crash can leave behind. Nothing was changed; the replica on
    /// this disk must be rebuilt from the others.
    #[error("log file {file} is damaged at byte {offset}: {what}")]
    LogDamaged {
        /// Name of the file inside the log folder.
        file: String,
        /// Byte in the file at which the damage was noticed.
        offset: u64,
        /// What was wrong there.
        what: &'static str,
    },
    /// The disk said no. The outcome of writes that were waiting is unknown; the node must stop.
    #[error("log: cannot {action} {file}: {source}")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// Name of the file inside the log folder, or of the folder.
        file: String,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Another process has this log open; refused, nothing was read.
    #[error("the log folder is in use by another process")]
    Locked,
    /// The log was closed, or its writer is gone. Refused if it was not yet queued, else unknown.
    #[error("the log is closed")]
    Closed,
    /// One record would be larger than [`MAX_RECORD_BYTES`](super::MAX_RECORD_BYTES); refused.
    #[error("a log record of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// Size of the refused record.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An append that would leave a hole or overwrite without truncating first; refused.
    #[error("log of {group}: append at index {index}, expected {expected}")]
    NotConsecutive {
        /// The group appended to.
        group: GroupId,
        /// The index that was offered.
        index: u64,
        /// The only index that may follow.
        expected: u64,
    },
    /// An option is outside its range; the log was not opened.
    #[error("log option {name}: {what}")]
    BadOption {
        /// Name of the option in [`WalOptions`](super::WalOptions).
        name: &'static str,
        /// The range that it must be in.
        what: &'static str,
    },
    /// A value could not be turned into bytes or back; of stored bytes this means another version
    /// wrote them, since their checksum was right.
    #[error("log of {group}: {what}: {source}")]
    Codec {
        /// The group whose value it is.
        group: GroupId,
        /// Which value, and in which direction.
        what: &'static str,
        /// What the serializer said.
        source: postcard::Error,
    },
}

impl LogError {
    pub(super) fn io(action: &'static str, file: &str, source: io::Error) -> Self {
        Self::Io { action, file: file.to_owned(), source: Arc::new(source) }
    }

    pub(super) fn damaged(file: &str, offset: u64, what: &'static str) -> Self {
        Self::LogDamaged { file: file.to_owned(), offset, what }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> Self {
        let kind = match &error {
            LogError::LogDamaged { .. } | LogError::Codec { .. } => io::ErrorKind::InvalidData,
            LogError::Io { source, .. } => source.kind(),
            LogError::Locked => io::ErrorKind::ResourceBusy,
            LogError::Closed => io::ErrorKind::BrokenPipe,
            LogError::TooLarge { .. } | LogError::NotConsecutive { .. } | LogError::BadOption { .. } => {
                io::ErrorKind::InvalidInput
            }
        };
        Self::new(kind, error)
    }
}

//! The greeting: what each end of a connection says first, and whether the two can talk.
//!
//! Both send [`GREETING_BYTES`] bytes at once: a magic, the protocol version that they speak, the oldest
//! that they still speak, and their build, for people. This layout stays for ever, so that ends of any
//! two versions can at least tell each other why they part. They speak the older of the two versions
//! if both still do. Otherwise both know it, both say so in their logs, and the caller gets
//! [`Code::IncompatibleVersion`](crate::error::Code::IncompatibleVersion).

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The protocol spoken here: raised whenever a message changes in a way that the version before cannot read.
pub const PROTOCOL_VERSION: u16 = 2;

/// The oldest protocol that is still spoken here. A rolling upgrade goes from any version in between.
pub const OLDEST_PROTOCOL: u16 = 2;

/// Bytes of a greeting.
pub const GREETING_BYTES: usize = 64;

/// Bytes of it that name the build.
const BUILD_BYTES: usize = 32;

const MAGIC: [u8; 8] = *b"FLOTILLA";

/// How long a peer may take to greet. It says nothing but that, so a silent one is no peer.
pub const GREET_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the same peer's refusal is logged: often enough to be seen, while it is tried again all the time.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Peers whose refusals are remembered for that.
const MAX_TOLD: usize = 1024;

/// What one end says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The protocol that it speaks.
    pub version: u16,
    /// The oldest that it still speaks.
    pub oldest: u16,
    /// Its build, for people.
    pub build: String,
}

impl Default for Greeting {
    /// Ours.
    fn default() -> Self {
        Self { version: PROTOCOL_VERSION, oldest: OLDEST_PROTOCOL, build: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "flotilla {} (protocol ", self.build)?;
        match self.oldest == self.version {
            true => write!(f, "{})", self.version),
            false => write!(f, "{} to {})", self.oldest, self.version),
        }
    }
}

/// Why two ends part before they have talked.
#[derive(Debug, thiserror::Error)]
pub enum GreetError {
    /// The network.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer speaks something else.
    #[error("the peer is no flotilla, or one from before versions were told")]
    Stranger,
    /// The two have no protocol in common.
    #[error("it is {theirs}, this is {ours}: they have no protocol in common")]
    Versions {
        /// What we are.
        ours: Greeting,
        /// What the peer is.
        theirs: Greeting,
    },
}

/// What to do about versions that are too far apart.
pub const UPGRADE_HINT: &str =
    "upgrade the older of the two, by way of a version between them that speaks with both; CHANGELOG.md names them";

impl Greeting {
    /// As it is sent.
    pub fn to_bytes(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.oldest.to_le_bytes());
        let build = &self.build.as_bytes()[..self.build.len().min(BUILD_BYTES)];
        bytes[12..12 + build.len()].copy_from_slice(build);
        bytes
    }

    /// As it was received; `None` for anything else.
    pub fn from_bytes(bytes: &[u8; GREETING_BYTES]) -> Option<Self> {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        // Logs are no place for whatever a stranger sends.
        let build = bytes[12..12 + BUILD_BYTES].iter().take_while(|byte| byte.is_ascii_graphic());
        (bytes[..8] == MAGIC).then(|| Self {
            version: number(8),
            oldest: number(10),
            build: build.map(|byte| char::from(*byte)).collect(),
        })
    }

    /// The version that both speak.
    ///
    /// # Errors
    /// [`GreetError::Versions`].
    pub fn agree(self, theirs: Self) -> Result<u16, GreetError> {
        let version = self.version.min(theirs.version);
        match version >= self.oldest.max(theirs.oldest) {
            true => Ok(version),
            false => Err(GreetError::Versions { ours: self, theirs }),
        }
    }
}

/// Sends our greeting, reads the peer's, and says which version is spoken.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S) -> Result<u16, GreetError> {
    let ours = Greeting::default();
    let exchange = async {
        socket.write_all(&ours.to_bytes()).await?;
        let mut theirs = [0; GREETING_BYTES];
        socket.read_exact(&mut theirs).await?;
        io::Result::Ok(theirs)
    };
    let theirs = match tokio::time::timeout(GREET_TIMEOUT, exchange).await {
        Ok(theirs) => theirs?,
        Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    ours.agree(Greeting::from_bytes(&theirs).ok_or(GreetError::Stranger)?)
}

/// Whom the log was told of, so that it is not filled by a peer that keeps trying.
#[derive(Default)]
pub(super) struct Told(DashMap<String, Instant>);

impl Told {
    /// Is it time to tell of this peer?
    pub(super) fn is_news(&self, peer: &str) -> bool {
        if self.0.get(peer).is_some_and(|at| at.elapsed() < TELL_AGAIN) {
            return false;
        }
        if self.0.len() >= MAX_TOLD {
            self.0.clear();
        }
        self.0.insert(peer.to_owned(), Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(oldest: u16, version: u16) -> Greeting {
        Greeting { version, oldest, build: format!("0.{version}.0") }
    }

    /// The bytes of a greeting are pinned: both ends of any two versions must read them.
    #[test]
    fn bytes() {
        let greeting = Greeting { version: 3, oldest: 2, build: "1.2.3-beta".to_owned() };
        let bytes = greeting.to_bytes();
        assert_eq!(&bytes[..22], b"FLOTILLA\x03\x00\x02\x001.2.3-beta");
        assert!(bytes[22..].iter().all(|byte| *byte == 0));
        assert_eq!(Greeting::from_bytes(&bytes), Some(greeting));
        let long = Greeting { build: "x".repeat(99), ..of(1, 1) };
        assert_eq!(Greeting::from_bytes(&long.to_bytes()).unwrap().build.len(), BUILD_BYTES);
        assert_eq!(Greeting::from_bytes(&[b'x'; GREETING_BYTES]), None);
        let hostile = Greeting { build: "1\n2".to_owned(), ..of(1, 1) };
        assert_eq!(Greeting::from_bytes(&hostile.to_bytes()).unwrap().build, "1");
    }

    /// The older version is spoken if both still speak it; otherwise both ends refuse alike.
    #[test]
    fn ranges() {
        assert_eq!(of(1, 1).agree(of(1, 1)).unwrap(), 1);
        assert_eq!(of(1, 3).agree(of(2, 5)).unwrap(), 3);
        assert_eq!(of(2, 5).agree(of(1, 3)).unwrap(), 3);
        for (a, b) in [(of(1, 1), of(2, 3)), (of(4, 9), of(1, 3))] {
            let here = a.clone().agree(b.clone()).unwrap_err().to_string();
            assert!(here.contains(&a.to_string()) && here.contains(&b.to_string()), "{here}");
            assert!(matches!(b.agree(a), Err(GreetError::Versions { .. })));
        }
    }
}

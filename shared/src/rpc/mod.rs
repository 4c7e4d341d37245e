//! Framed, multiplexed messages over one TCP connection per peer.
//!
//! A connection opens with a greeting each way ([`greeting`]), then carries frames: length `u32`,
//! kind `u8`, id `u64`, all little-endian, then the payload. The client numbers its calls; an
//! answer carries the number of its call. Frames of one connection arrive in the order in which
//! they were sent. Whatever waits when the socket is ready goes out in one write, so that under
//! load one system call carries many messages, and an idle connection delays none.
//!
//! Refused: frames over [`MAX_FRAME_BYTES`], peers that speak no common version. A full queue makes the sender wait.

mod connection;
mod frame;
pub mod greeting;
mod pool;
mod server;

use bytes::Bytes;
use serde::Serialize;

pub use connection::{Answer, Connection, RpcError};
pub use pool::{Pool, encode};
pub use server::{Reply, Session, serve};

/// Largest payload of a frame: a full log batch or a chunk of pages with room to spare. A length
/// beyond it means that the peer speaks something else.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// Frames that may wait for the socket on one connection before senders wait.
pub const SEND_QUEUE_FRAMES: usize = 4096;

/// Bytes that may wait for the socket on one connection before senders wait: a peer that stands still, or has
/// only just gone, holds no more of our memory. A link of 10 Gbit/s empties it in some 25 ms.
pub const SEND_QUEUE_BYTES: usize = 32 << 20;

/// Requests of one connection that may be in work at once; the reader pauses beyond it.
pub const MAX_IN_WORK: usize = 4096;

/// What most messages fit in: a buffer that grows from nothing is copied six times on the way there.
const USUAL_BYTES: usize = 256;

/// Frame kinds below this are free for handlers; this one marks answers.
pub const KIND_ANSWER: u8 = 255;

/// Frame kind of a postcard [`crate::wire::Envelope`], answered by a `Result<Response, Error>`.
pub const KIND_REQUEST: u8 = 1;

/// A message as it goes into a frame.
///
/// # Panics
/// When it cannot be encoded, which the types of our messages rule out.
pub fn payload(message: &impl Serialize) -> Bytes {
    postcard::to_extend(message, Vec::with_capacity(USUAL_BYTES)).expect("messages encode").into()
}

#[cfg(test)]
mod tests;

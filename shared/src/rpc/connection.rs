//! The calling end of a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::frame::{Frame, FrameReader, write_frames};
use super::greeting::{GreetError, greet};
use super::{KIND_ANSWER, SEND_QUEUE_BYTES, SEND_QUEUE_FRAMES};

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// Nothing was sent: safe to send elsewhere.
    #[error("cannot reach {addr}: {why}")]
    NotSent {
        /// The peer.
        addr: String,
        /// Why.
        why: String,
    },
    /// Sent, but the connection broke or the time was up: it may have been carried out.
    #[error("no answer from {addr}: {why}")]
    NoAnswer {
        /// The peer.
        addr: String,
        /// Why.
        why: String,
    },
    /// Nothing was sent, because the peer's version is too far from ours. It will not do better next time.
    #[error("{addr} is of another version: {why}")]
    Incompatible {
        /// The peer.
        addr: String,
        /// The versions.
        why: String,
    },
}

/// Calls that wait for their answers; `None` once the connection is lost.
type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<Bytes>>>>;

/// One connection to a peer.
pub struct Connection {
    addr: String,
    queue: mpsc::Sender<Frame>,
    /// Of the bytes that may wait for the socket; closed once the connection is lost.
    room: Arc<Semaphore>,
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
}

impl Connection {
    /// Connects and greets.
    ///
    /// # Errors
    /// What the network says; a peer that is no flotilla, or one of a version too far from ours.
    pub async fn open(addr: &str) -> Result<Self, GreetError> {
        let mut socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        greet(&mut socket).await?;
        let (read, write) = socket.into_split();
        let (queue, frames) = mpsc::channel(SEND_QUEUE_FRAMES);
        let waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let room = Arc::new(Semaphore::new(SEND_QUEUE_BYTES));
        let (lost, lost_room) = (Arc::clone(&waiting), Arc::clone(&room));
        tokio::spawn(async move {
            let reading = read_answers(FrameReader::new(read), &lost);
            let writing = write_frames(write, frames);
            // Either end gone means that no further answer can be trusted to come.
            tokio::select! { _ = reading => (), _ = writing => () }
            lock(&lost).take();
            lost_room.close();
        });
        Ok(Self { addr: addr.to_owned(), queue, room, waiting, next_id: AtomicU64::new(1) })
    }

    /// Has the connection been lost?
    pub fn is_lost(&self) -> bool {
        lock(&self.waiting).is_none()
    }

    /// Sends a frame and returns the place where its answer will arrive. Frames sent one after the
    /// other arrive in that order.
    ///
    /// # Errors
    /// [`RpcError::NotSent`].
    pub async fn send(self: &Arc<Self>, kind: u8, payload: Bytes) -> Result<Answer, RpcError> {
        // One that is larger than all the room is sent when it has all of it.
        let bytes = payload.len().min(SEND_QUEUE_BYTES) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let room = Some(room.map_err(|_| self.not_sent("the connection was lost"))?);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(self.not_sent("the connection was lost")),
        };
        let answer = Answer { connection: Arc::clone(self), id, receiver };
        if self.queue.send(Frame { kind, id, payload, _room: room }).await.is_err() {
            return Err(self.not_sent("the connection was lost"));
        }
        Ok(answer)
    }

    /// Sends a frame and waits for its answer.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn call(self: &Arc<Self>, kind: u8, payload: Bytes, timeout: Duration) -> Result<Bytes, RpcError> {
        let answer = match tokio::time::timeout(timeout, self.send(kind, payload)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(self.not_sent("its queue is full")),
        };
        match tokio::time::timeout(timeout, answer.wait()).await {
            Ok(answer) => answer,
            Err(_) => Err(RpcError::NoAnswer { addr: self.addr.clone(), why: "the time is up".into() }),
        }
    }

    fn not_sent(&self, why: &str) -> RpcError {
        RpcError::NotSent { addr: self.addr.clone(), why: why.into() }
    }
}

/// An answer to come. Dropping it forgets the call.
pub struct Answer {
    connection: Arc<Connection>,
    id: u64,
    receiver: oneshot::Receiver<Bytes>,
}

impl Answer {
    /// Waits for it.
    ///
    /// # Errors
    /// [`RpcError::NoAnswer`] when the connection is lost first.
    pub async fn wait(mut self) -> Result<Bytes, RpcError> {
        (&mut self.receiver).await.map_err(|_| RpcError::NoAnswer {
            addr: self.connection.addr.clone(),
            why: "the connection was lost".into(),
        })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(waiting) = lock(&self.connection.waiting).as_mut() {
            waiting.remove(&self.id);
        }
    }
}

async fn read_answers<R: tokio::io::AsyncRead + Unpin>(mut frames: FrameReader<R>, waiting: &Waiting) {
    while let Ok(Some(frame)) = frames.next().await {
        if frame.kind != KIND_ANSWER {
            return;
        }
        let sender = lock(waiting).as_mut().and_then(|waiting| waiting.remove(&frame.id));
        if let Some(sender) = sender {
            // The caller may have given up; its answer is dropped.
            sender.send(frame.payload).ok();
        }
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Bytes>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

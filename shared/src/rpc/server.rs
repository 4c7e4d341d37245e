//! The answering end of connections.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::frame::{Frame, FrameReader, write_frames};
use super::greeting::{GreetError, Told, UPGRADE_HINT, greet};
use super::{KIND_ANSWER, MAX_IN_WORK, SEND_QUEUE_FRAMES};

/// What handles the requests of one connection, in the order in which they came.
pub trait Session: Send + 'static {
    /// Takes one request. It must not block; what takes time is spawned or queued, with `reply`.
    fn handle(&mut self, kind: u8, payload: Bytes, reply: Reply);
}

/// Where an answer goes. Dropped without one, the caller hears nothing until its time is up.
pub struct Reply {
    id: u64,
    queue: mpsc::Sender<Frame>,
    _permit: OwnedSemaphorePermit,
}

impl Reply {
    /// Sends the answer.
    pub async fn send(self, payload: Bytes) {
        // A lost connection has nobody who waits.
        self.queue.send(Frame { kind: KIND_ANSWER, id: self.id, payload, _room: None }).await.ok();
    }

    /// Sends the answer without waiting: a caller that reads slowly holds up nobody but itself.
    pub fn send_now(self, payload: Bytes) {
        let frame = Frame { kind: KIND_ANSWER, id: self.id, payload, _room: None };
        if let Err(mpsc::error::TrySendError::Full(frame)) = self.queue.try_send(frame) {
            // Bounded by what one connection may have in work.
            tokio::spawn(async move { Self { ..self }.send(frame.payload).await });
        }
    }
}

/// Serves connections until `stop` turns true; each gets a session from `open`.
pub async fn serve<S: Session>(
    listener: TcpListener,
    open: impl Fn() -> S + Send + Sync + 'static,
    mut stop: watch::Receiver<bool>,
) {
    let told = Arc::new(Told::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let (session, told) = (open(), Arc::clone(&told));
                let mut stop = stop.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        result = serve_connection(socket, session) => match result {
                            Ok(()) => (),
                            Err(error @ GreetError::Versions { .. }) => {
                                // Each try comes from another port.
                                if told.is_news(&peer.ip().to_string()) {
                                    tracing::warn!(%peer, %error, hint = UPGRADE_HINT, "a peer is not talked to");
                                }
                            }
                            Err(error) => tracing::debug!(%peer, %error, "a connection ended"),
                        },
                        _ = stop.wait_for(|stop| *stop) => (),
                    }
                });
            }
            // Out of file descriptors or alike: nothing to do but let others finish first.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(mut socket: TcpStream, mut session: impl Session) -> Result<(), GreetError> {
    socket.set_nodelay(true)?;
    greet(&mut socket).await?;
    let (read, write) = socket.into_split();
    let (queue, frames) = mpsc::channel(SEND_QUEUE_FRAMES);
    let in_work = Arc::new(Semaphore::new(MAX_IN_WORK));
    let reading = async {
        let mut reader = FrameReader::new(read);
        while let Some(frame) = reader.next().await? {
            let permit = Arc::clone(&in_work).acquire_owned().await.map_err(io::Error::other)?;
            let reply = Reply { id: frame.id, queue: queue.clone(), _permit: permit };
            session.handle(frame.kind, frame.payload, reply);
        }
        io::Result::Ok(())
    };
    tokio::select! {
        read = reading => read?,
        written = write_frames(write, frames) => written?,
    }
    Ok(())
}

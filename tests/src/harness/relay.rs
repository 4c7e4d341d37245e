//! A relay in front of a node's internal port: delays what passes in each direction, and cuts.
//!
//! Bytes leave as they came, `delay` later; bandwidth is not limited. While it is cut, connections
//! break and none is made.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pieces under way in one direction of one connection.
const PIECES: usize = 4096;

/// Largest piece.
const PIECE_BYTES: usize = 64 << 10;

/// How the link is.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// On the way to the node.
    there: Duration,
    /// On the way back.
    back: Duration,
    cut: bool,
}

/// A relay.
pub struct Relay {
    listen: String,
    target: String,
    link: Arc<watch::Sender<Link>>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    /// From `listen` to `target`; nothing listens yet.
    pub fn new(listen: String, target: String) -> Self {
        Self { listen, target, link: Arc::new(watch::channel(Link::default()).0), accepting: None }
    }

    /// Starts to listen.
    ///
    /// # Panics
    /// When the address is in use.
    pub async fn open(&mut self) {
        let listener = TcpListener::bind(&self.listen).await.expect("the relay can listen");
        let (target, link) = (self.target.clone(), Arc::clone(&self.link));
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(carry(socket, target.clone(), link.subscribe()));
            }
        }));
    }

    /// Half of the round trip that everything takes from now on.
    pub fn delay(&self, there: Duration, back: Duration) {
        self.link.send_modify(|link| (link.there, link.back) = (there, back));
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.cut = true);
    }

    /// Ends [`cut`](Self::cut).
    pub fn heal(&self) {
        self.link.send_modify(|link| link.cut = false);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn carry(from: TcpStream, target: String, mut link: watch::Receiver<Link>) {
    if link.borrow().cut {
        return;
    }
    let Ok(to) = TcpStream::connect(target).await else { return };
    from.set_nodelay(true).ok();
    to.set_nodelay(true).ok();
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    let (there, back) = (link.clone(), link.clone());
    tokio::select! {
        () = one_way(from_read, to_write, || there.borrow().there) => (),
        () = one_way(to_read, from_write, || back.borrow().back) => (),
        // The sender lives as long as the relay.
        _ = link.wait_for(|link| link.cut) => (),
    }
}

/// Reads at once and writes later, so that a delay does not limit what is under way.
async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: impl Fn() -> Duration) {
    let (queue, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let reading = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let piece = (Instant::now() + delay(), Bytes::copy_from_slice(&buffer[..count]));
            if queue.send(piece).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((at, piece)) = pieces.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Timers are rounded up to whole milliseconds, which is too coarse for short round trips.
async fn sleep_until(at: Instant) {
    let coarse = Duration::from_millis(1);
    if at > Instant::now() + coarse {
        tokio::time::sleep_until(at - coarse).await;
    }
    while Instant::now() < at {
        tokio::task::yield_now().await;
    }
}

//! A relay in front of a node's internal port: delays what passes in each direction, cuts, and flips a bit.
//!
//! Bytes leave as they came, `delay` later; bandwidth is not limited. While it is cut, connections
//! break and none is made; it can also be cut for one process alone. Connections that are spared are cut
//! like all others but not delayed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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
    /// Cut for the process with this id.
    cut_for: Option<u32>,
}

impl Link {
    fn is_cut(&self, client: SocketAddr) -> bool {
        self.cut || self.cut_for.is_some_and(|process| belongs(client, process))
    }
}

/// Tells of the address that a connection comes from whether it is spared.
type Spared = Box<dyn Fn(SocketAddr) -> bool + Send + Sync>;

/// What is to be damaged on the way back from the node.
#[derive(Default)]
struct Damage {
    /// The text at whose end a bit is flipped.
    marker: Mutex<Option<Vec<u8>>>,
    flipped: AtomicU32,
}

impl Damage {
    /// Flips one bit if the marker is there and a flip is due.
    fn pass(&self, bytes: &mut [u8]) {
        let mut marker = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(text) = marker.as_deref() else { return };
        let Some(at) = bytes.windows(text.len()).position(|window| window == text) else { return };
        bytes[at + text.len() - 1] ^= 1;
        *marker = None;
        self.flipped.fetch_add(1, Ordering::Relaxed);
    }
}

/// A relay.
pub struct Relay {
    listen: String,
    target: String,
    link: Arc<watch::Sender<Link>>,
    spared: Arc<OnceLock<Spared>>,
    damage: Arc<Damage>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    /// From `listen` to `target`; nothing listens yet.
    pub fn new(listen: String, target: String) -> Self {
        Self {
            listen,
            target,
            link: Arc::new(watch::channel(Link::default()).0),
            spared: Arc::default(),
            damage: Arc::default(),
            accepting: None,
        }
    }

    /// Starts to listen.
    ///
    /// # Errors
    /// When the address is in use.
    pub async fn open(&mut self) -> std::io::Result<()> {
        let listener = TcpListener::bind(&self.listen).await?;
        let (target, link, spared) = (self.target.clone(), Arc::clone(&self.link), Arc::clone(&self.spared));
        let damage = Arc::clone(&self.damage);
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((socket, client)) = listener.accept().await {
                let spared = spared.get().is_some_and(|spared| spared(client));
                let damage = Arc::clone(&damage);
                tokio::spawn(carry(socket, client, target.clone(), link.subscribe(), spared, damage));
            }
        }));
        Ok(())
    }

    /// Half of the round trip that everything takes from now on.
    pub fn delay(&self, there: Duration, back: Duration) {
        self.link.send_modify(|link| (link.there, link.back) = (there, back));
    }

    /// Says which connections are not delayed, of those that are made from now on; counts once.
    pub fn spare(&self, spared: impl Fn(SocketAddr) -> bool + Send + Sync + 'static) {
        self.spared.get_or_init(|| Box::new(spared));
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.cut = true);
    }

    /// Breaks the connections of one process, and refuses it new ones.
    pub fn cut_for(&self, process: u32) {
        self.link.send_modify(|link| link.cut_for = Some(process));
    }

    /// Flips a bit at the end of `marker` in the next answer of the node that holds it.
    pub fn flip_next_answer(&self, marker: &[u8]) {
        *self.damage.marker.lock().unwrap_or_else(PoisonError::into_inner) = Some(marker.to_owned());
    }

    /// Leaves answers as they are again; how many bits were flipped.
    pub fn flip_no_more(&self) -> u32 {
        *self.damage.marker.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.damage.flipped.load(Ordering::Relaxed)
    }

    /// Ends [`cut`](Self::cut) and [`cut_for`](Self::cut_for).
    pub fn heal(&self) {
        self.link.send_modify(|link| (link.cut, link.cut_for) = (false, None));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// Looks at the system's list of connections: it is not of one moment, so one look may miss one.
const LOOKS: usize = 20;

/// Does the other end of a connection on this machine belong to a process?
fn belongs(client: SocketAddr, process: u32) -> bool {
    owns(process, &sockets_of(client))
}

/// Does it belong to none of these? Not if nobody can tell.
pub fn belongs_to_others(client: SocketAddr, processes: &[u32]) -> bool {
    let sockets = sockets_of(client);
    !sockets.is_empty() && !processes.iter().any(|process| owns(*process, &sockets))
}

/// The sockets with that port, as a process's files name them.
fn sockets_of(client: SocketAddr) -> Vec<String> {
    let port = format!(":{:04X}", client.port());
    let look = || {
        // local address, remote address, state, …; the tenth field is the inode, 0 once it is closed. See
        // proc_pid_net(5).
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let inodes = table.lines().filter_map(|line| {
            let mut fields = line.split_whitespace();
            fields.nth(1).filter(|local| local.ends_with(&port)).and_then(|_| fields.nth(7))
        });
        inodes.filter(|inode| *inode != "0").map(|inode| format!("socket:[{inode}]")).collect::<Vec<_>>()
    };
    (0..LOOKS).map(|_| look()).find(|sockets| !sockets.is_empty()).unwrap_or_default()
}

fn owns(process: u32, sockets: &[String]) -> bool {
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten();
    files
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
        .any(|file| sockets.iter().any(|socket| file == Path::new(socket)))
}

async fn carry(
    from: TcpStream,
    client: SocketAddr,
    target: String,
    mut link: watch::Receiver<Link>,
    spared: bool,
    damage: Arc<Damage>,
) {
    if link.borrow().is_cut(client) {
        return;
    }
    let Ok(to) = TcpStream::connect(target).await else { return };
    from.set_nodelay(true).ok();
    to.set_nodelay(true).ok();
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    let (there, back) = (link.clone(), link.clone());
    tokio::select! {
        () = one_way(from_read, to_write, || if spared { Duration::ZERO } else { there.borrow().there }, |_| ()) => (),
        () = one_way(
            to_read,
            from_write,
            || if spared { Duration::ZERO } else { back.borrow().back },
            |bytes| damage.pass(bytes),
        ) => (),
        // The sender lives as long as the relay.
        _ = link.wait_for(|link| link.is_cut(client)) => (),
    }
}

/// Reads at once and writes later, so that a delay does not limit what is under way.
async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: impl Fn() -> Duration,
    change: impl Fn(&mut [u8]),
) {
    let (queue, mut pieces) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let reading = async move {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            change(&mut buffer[..count]);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection of this process belongs to it and to no other; of one that is not there nobody can tell.
    #[cfg(target_os = "linux")]
    #[test]
    fn owners() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, own) = (here.local_addr().unwrap(), std::process::id());
        assert!(belongs(client, own) && !belongs_to_others(client, &[1, own]));
        assert!(belongs_to_others(client, &[]));
        assert!(!belongs_to_others("127.0.0.1:1".parse().unwrap(), &[]));
    }
}

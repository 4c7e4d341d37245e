//! Reads that are answered in pieces, for results beyond what one frame holds.
//!
//! A stream is a thread with a read-only connection in a read transaction, so all its pieces are of
//! one moment, in which its route was checked. It is pulled: each piece is read when it is asked for,
//! so a slow receiver holds up nobody else on the connection that they share, and no piece waits in
//! memory here. A stream belongs to the connection that opened it and ends with its last piece, when
//! it is closed, when that connection is lost, or when its time is up: an open read transaction keeps
//! the group's WAL from being used again from its start.
//!
//! Input: [`Request::Open`](flotilla_shared::wire::Request::Open), `Pull` and `Close`. Output:
//! [`Response::Piece`]. Refused: streams over [`MAX_STREAMS`], and pulls of a stream that has ended.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{GroupId, NodeId, RequestId};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Read, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use crate::host::Host;
use crate::read::fresh_enough;
use crate::state::reads::ReadPool;

/// Streams open on one node: each holds a thread, of which tokio gives out some hundreds for all
/// blocking work.
pub const MAX_STREAMS: usize = 128;

/// Longest that a stream may stay open.
pub const MAX_LIFE: Duration = Duration::from_secs(600);

/// How long a node that stops lets open streams go on: most end within it, and others are cut off, which
/// their readers are told.
const DRAIN: Duration = Duration::from_secs(5);

/// Pause between two looks at streams that are still open.
const DRAIN_LOOK: Duration = Duration::from_millis(10);

/// Opens no more streams, and waits for those that are open.
pub async fn drain(places: &Semaphore) {
    places.close();
    let end = Instant::now() + DRAIN;
    while places.available_permits() < MAX_STREAMS && Instant::now() < end {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

/// Some rows, and whether others follow.
pub struct Piece {
    values: Vec<Vec<Value>>,
    more: bool,
}

impl Piece {
    /// As an answer of that node.
    pub fn response(self, node: NodeId) -> Response {
        Response::Piece { node, values: self.values, more: self.more }
    }
}

/// Who waits for a piece.
type Pull = oneshot::Sender<Result<Piece, Error>>;

/// Streams by name; dropping a stream's sender ends its thread.
type Table = Mutex<HashMap<RequestId, Sender<Pull>>>;

/// The streams of one connection.
#[derive(Default)]
pub struct Streams(Arc<Table>);

impl Streams {
    /// Enters a stream before anything can ask for it.
    pub fn open(&self, stream: RequestId) -> Opening {
        let (pulls, pulled) = channel();
        lock(&self.0).insert(stream, pulls);
        Opening { entered: Entered { table: Arc::clone(&self.0), stream }, pulled }
    }

    /// The next piece of a stream.
    pub fn pull(&self, stream: RequestId) -> impl Future<Output = Result<Piece, Error>> + Send + use<> {
        let (pull, piece) = oneshot::channel();
        let known = lock(&self.0).get(&stream).is_some_and(|pulls| pulls.send(pull).is_ok());
        async move {
            match piece.await {
                Ok(piece) if known => piece,
                _ => Err(Error::new(Code::Timeout, "the stream is not open any more")
                    .hint("read faster, or narrow the query: a stream must end within some minutes")),
            }
        }
    }

    /// Ends a stream.
    pub fn close(&self, stream: RequestId) {
        lock(&self.0).remove(&stream);
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        lock(&self.0).clear();
    }
}

/// A stream's place in the table; leaves it when dropped.
struct Entered {
    table: Arc<Table>,
    stream: RequestId,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.stream);
    }
}

fn lock(table: &Table) -> std::sync::MutexGuard<'_, HashMap<RequestId, Sender<Pull>>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream that has not begun.
pub struct Opening {
    entered: Entered,
    pulled: Receiver<Pull>,
}

/// What a stream reads.
pub struct Opened {
    /// The shard.
    pub group: GroupId,
    /// The read.
    pub read: Read,
    /// What the clock shows to it, if it says so: microseconds since 1970.
    pub at_us: Option<i64>,
    /// How long it may stay open.
    pub life: Duration,
}

impl Opening {
    /// Begins it, and answers its first piece.
    ///
    /// # Errors
    /// What the replica, the route or the statement says; [`Code::Overloaded`].
    pub async fn start(self, host: &Arc<Host>, opened: Opened, timeout: Duration) -> Result<Response, Error> {
        let Opened { group, read, at_us, life } = opened;
        let place = Arc::clone(host.streams()).try_acquire_owned().map_err(|why| match why {
            TryAcquireError::Closed => Error::new(Code::ShuttingDown, "this node is stopping"),
            TryAcquireError::NoPermits => {
                Error::new(Code::Overloaded, format!("{MAX_STREAMS} streams are open on this node")).hint("retry later")
            }
        })?;
        let replica = fresh_enough(host, group, &read, timeout).await?;
        let readers = replica.state().store().readers();
        let (first, piece) = oneshot::channel();
        let thread = move || self.run(&readers, (&read, at_us), life.min(MAX_LIFE), first, place);
        replica.state().store().executor().spawn(Box::new(thread));
        let ended = |_| Error::new(Code::Internal, "a stream ended without a word");
        Ok(piece.await.map_err(ended)??.response(host.identity().node))
    }

    fn run(
        self,
        readers: &ReadPool,
        (read, at_us): (&Read, Option<i64>),
        life: Duration,
        first: Pull,
        _place: OwnedSemaphorePermit,
    ) {
        let end = Instant::now() + life;
        let Self { entered: _entered, pulled } = self;
        let mut waiting = Some(first);
        let outcome = readers.read_in_pieces(read, at_us, life, |values, more| {
            let asked = waiting.take().is_some_and(|pull| pull.send(Ok(Piece { values, more })).is_ok());
            if !asked || !more {
                return false;
            }
            match pulled.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(next) => waiting = Some(next),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
            true
        });
        if let (Err(error), Some(pull)) = (outcome, waiting) {
            pull.send(Err(error)).ok();
        }
    }
}

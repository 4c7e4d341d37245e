//! `POST /table/rebalance`: slots move, some at a time, until all shards of a placement have equally much.
//!
//! One [`attempt`] does one thing and returns, so that other jobs run between two moves, and what was
//! asked of the job (to pause, to end) is seen between two moves. Nothing is remembered between attempts:
//! the registry says which move is under way, the shards say how far it is.
//!
//! # The steps of a move, and what a crash after each of them means
//! 0. *index*, at the source: the slot index is there. Nothing else is changed. The job drops it at its
//!    end, whatever the end is.
//! 1. *begin*, in the registry: the move has a number. A later driver finds it and starts at 2.
//! 2. *ahead*, at the source: rows of the slots that change are noted. Then *open* and *stage*, at the target:
//!    rows and remembered requests, piece by piece, invisible; then what changed meanwhile, until little is left.
//!    Writers go on. Each piece says where it begins, so none is taken twice; a later driver goes on
//!    behind the last one. The target tries whether the rows would go in. This may take many attempts,
//!    and other jobs run between them.
//! 3. *freeze*, at the source: writers of the slots wait at their proxies, reads go on. A later driver
//!    goes on from here. A late freeze of a move that has ended changes nothing.
//! 4. *stage*, once more: the rest. Then the *content* of both sides is compared, slot by slot.
//! 5. *release*, at the source: the commit point. It is refused if a row has changed since. Before it the move can
//!    be cancelled with nothing changed, after it only steps 6 and 7 are left, which no driver can do wrong:
//!    nobody owns the slots, their readers and writers wait.
//! 6. *release* again, at the source, until it has no row of the slots, and *activate*, at the target, until it has all:
//!    rows go in chunks, because other writers wait behind each. The last one takes the slots.
//! 7. *flip*, in the registry: proxies learn. Until then those that ask the source or the target by the
//!    old map are refused and look again.
//!
//! A move that cannot go on before step 5 is cancelled: first at the source, whose answer decides (it
//! was released after all: forward; else writers go on there), then at the target, then the registry
//! forgets it. Frozen slots make people wait, so in steps 3 to 5 nothing is tried for longer than
//! [`PATIENCE`]; in step 2 what fails is tried again.
//!
//! A step of rows keeps the shard's other writers waiting, and all nodes busy. So after each one that nobody
//! waits for the driver rests for as long as it took.
//!
//! # Invariants
//! 1. Of each slot at most one shard is the owner at any moment, by the shards' own tables.
//! 2. The registry forgets a move only after both shards have ended it; so its next move finds both free.
//! 3. Two drivers do no harm to each other: each step is checked where it lands, and refused or answered
//!    again when another driver was there before.

mod leave;
mod next;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, JobId, MoveId};
use flotilla_shared::moves::{Content, Cursor, MoveAnswer, MoveQuery, MoveReply, MoveStep, MovedSet, Piece};
use flotilla_shared::registry::{
    Job, JobState, MetaCommand, Move, MoveChange, Progress, Registry, ReplicaInfo, Transfer, Wish,
};

pub(crate) use next::Memory;
use next::Next;
use pace::{LONGEST_WAIT, Pace};

/// How long a step before the commit point may take: writers wait.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long any other step may take before it counts as stuck and is tried anew.
pub(super) const STEP: Duration = Duration::from_secs(10);

/// Pieces that one attempt copies ahead: other jobs shall not wait for more than a second or so.
const AHEAD_PIECES: usize = 32;

/// Changed rows and requests that may be left to be copied when slots are frozen: some milliseconds. Less than
/// a full piece has, behind which there may be any number.
const SMALL_REST: usize = 128;

/// Changes after whose copy slots are frozen even if much is left: then writers are faster than the copy,
/// and it would never end.
const MAX_CHANGES_AHEAD: u64 = 1 << 20;

/// What a driver works with: the registry and the shards. Handed in, so that a test can let calls be
/// lost, late or the last ones of their driver.
pub(crate) trait Ground: Sync {
    /// The registry, with everything acknowledged before.
    fn registry(&self) -> impl Future<Output = Result<std::sync::Arc<Registry>, Error>> + Send;
    /// Changes the registry.
    fn meta(&self, command: MetaCommand) -> impl Future<Output = Result<(), Error>> + Send;
    /// Takes a step on a shard.
    fn step(
        &self,
        shard: GroupId,
        step: MoveStep,
        patience: Duration,
    ) -> impl Future<Output = Result<MoveReply, Error>> + Send;
    /// Asks a shard's leader.
    fn ask(&self, shard: GroupId, query: MoveQuery) -> impl Future<Output = Result<MoveAnswer, Error>> + Send;
    /// Drops a replica of a shard that was taken out, wherever it is.
    fn drop_replica(&self, shard: GroupId, replica: ReplicaInfo) -> impl Future<Output = Result<(), Error>> + Send;
    /// The time, microseconds since 1970.
    fn now_us(&self) -> i64;
    /// Leaves the shards to others, after a step that took so long.
    fn rest(&self, took: Duration) -> impl Future<Output = ()> + Send;
    /// Lets time pass.
    fn wait(&self, time: Duration) -> impl Future<Output = ()> + Send;
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Attempt {
    /// There is more to do.
    More,
    /// There is more to do, and nobody waits for it. Perhaps it could not go on just now.
    Ahead(Option<Error>),
    /// There is more to do after this time.
    Wait(Duration),
    /// The job has ended or halted.
    Ended,
}

/// Takes the job one step further.
///
/// # Errors
/// What kept it from that; the next attempt finds out what was done nevertheless.
pub(crate) async fn attempt<G: Ground>(ground: &G, memory: &mut Memory, id: JobId) -> Result<Attempt, Error> {
    let registry = ground.registry().await?;
    let Some(job) = registry.jobs.get(&id).filter(|job| job.state == JobState::Running) else {
        return Ok(Attempt::Ended);
    };
    let Some(progress) = job.progress.as_deref() else {
        return Err(Error::new(Code::Internal, "a job that moves slots records no progress"));
    };
    let pace = Arc::clone(&memory.pace);
    let worker = Worker { ground, registry: &registry, job, progress, pace };
    if let Some(leave) = &progress.leave {
        return worker.forget(leave).await;
    }
    if !progress.moving.is_empty() {
        let carried = futures::future::join_all(progress.moving.iter().map(|moving| worker.carry(moving))).await;
        return worker.carried(carried).await;
    }
    match progress.wish {
        Wish::Cancel => return worker.end(JobState::Cancelled, None).await,
        Wish::Pause => {
            worker.drop_indexes().await?;
            worker.record(MoveChange::Halt { generation: progress.generation }).await?;
            return Ok(Attempt::Ended);
        }
        Wish::Run => (),
    }
    match worker.next(memory).await {
        Ok(Next::More) => Ok(Attempt::More),
        Ok(Next::Wait(time)) => Ok(Attempt::Wait(time)),
        Ok(Next::Done) => worker.end(JobState::Done, None).await,
        Err(error) if is_final(&error) => worker.end(JobState::Failed, Some(error)).await,
        Err(error) => Err(error),
    }
}

/// Does the error end the job? What contradicts the state of a shard comes from another driver that was
/// faster; the next attempt sees what that one did.
fn is_final(error: &Error) -> bool {
    error.code.class() == Class::Refused && error.code != Code::Conflict
}

/// Another driver has taken the move further, most likely to its end: the next attempt sees how far.
fn odd(answer: &impl std::fmt::Debug) -> Error {
    Error::new(Code::Unavailable, format!("a shard gave another answer: {answer:?}"))
}

struct Worker<'a, G> {
    ground: &'a G,
    registry: &'a Registry,
    job: &'a Job,
    progress: &'a Progress,
    pace: Arc<Pace>,
}

impl<G: Ground> Worker<'_, G> {
    async fn record(&self, change: MoveChange) -> Result<(), Error> {
        self.ground.meta(MetaCommand::Move { job: self.job.id, change }).await
    }

    async fn note(&self, step: String, percent: u8) {
        if self.job.step != step || self.job.percent != percent || self.job.error.is_some() {
            let command = MetaCommand::StepJob { job: self.job.id, step, percent, error: None };
            // Not worth failing for.
            self.ground.meta(command).await.ok();
        }
    }

    async fn end(&self, state: JobState, error: Option<Error>) -> Result<Attempt, Error> {
        self.drop_indexes().await?;
        self.record(MoveChange::End { generation: self.progress.generation, state, error }).await?;
        Ok(Attempt::Ended)
    }

    /// A step of rows, and then a rest.
    async fn gently(&self, shard: GroupId, step: MoveStep) -> Result<MoveReply, Error> {
        let start = Instant::now();
        let reply = self.ground.step(shard, step, STEP).await;
        self.ground.rest(start.elapsed()).await;
        reply
    }

    async fn drop_indexes(&self) -> Result<(), Error> {
        let step = MoveStep::DropIndex { generation: self.progress.generation };
        for shard in self.registry.shards() {
            loop {
                match self.gently(shard, step.clone()).await? {
                    MoveReply::Index { done: true } => break,
                    MoveReply::Index { done: false } => (),
                    other => return Err(odd(&other)),
                }
            }
        }
        Ok(())
    }

    /// What moves under way have come to. One that cannot go on ends the job once the others have come to their end, too.
    async fn carried(&self, moves: Vec<Result<Carried, Error>>) -> Result<Attempt, Error> {
        let (mut ahead, mut failed) = (None, None);
        for carried in moves {
            match carried? {
                Carried::There | Carried::Cancelled(None) => (),
                Carried::Ahead(held) => ahead = Some(held.or(ahead.flatten())),
                Carried::Cancelled(Some(error)) => failed = Some(error),
            }
        }
        match (ahead, failed) {
            (None, Some(error)) if is_final(&error) => self.end(JobState::Failed, Some(error)).await,
            (None, Some(error)) => Err(error),
            (Some(held), failed) => Ok(Attempt::Ahead(failed.or(held))),
            (None, None) => Ok(Attempt::More),
        }
    }

    /// Takes a move under way further: past the commit point to its end.
    async fn carry(&self, moving: &Move) -> Result<Carried, Error> {
        let Move { id, transfer: Transfer { from, to, .. }, placement } = moving;
        let (id, from, to) = (*id, *from, *to);
        let brought = match self.registry.placements.get(placement) {
            Some(placement) if self.progress.wish == Wish::Run => {
                self.bring(moving, MovedSet::of(self.registry, placement)).await
            }
            _ => Err(Error::new(Code::ShuttingDown, "the job is to move nothing more")),
        };
        let released = match brought {
            Ok(Brought::Released(released)) => released,
            Ok(Brought::Ahead(held)) => return Ok(Carried::Ahead(held)),
            Err(why) => match self.ground.step(from, MoveStep::Cancel { id }, STEP).await? {
                MoveReply::Cancelled => {
                    while self.gently(to, MoveStep::Cancel { id }).await? == MoveReply::Cancelling {}
                    self.record(MoveChange::Abandon { id }).await?;
                    // Somebody wished so: then it is not a failure.
                    return Ok(Carried::Cancelled((why.code != Code::ShuttingDown).then_some(why)));
                }
                reply => Released::of(reply)?,
            },
        };
        // What is released goes forward: a refusal here is waited out, visibly.
        let (left, taken) = futures::join!(self.leave(moving, &released), self.take(moving, &released));
        left?;
        let to_epoch = taken.map_err(|error| {
            let message = format!("{to} does not take what {from} has released: {}", error.message);
            Error::new(Code::Unavailable, message).hint("correct what stands in the way; the job goes on by itself")
        })?;
        let Released { epoch: from_epoch, rows, bytes, .. } = released;
        self.record(MoveChange::Flip { id, from_epoch, to_epoch, rows, bytes }).await?;
        Ok(Carried::There)
    }

    /// Steps 2 to 5.
    async fn bring(&self, moving: &Move, set: MovedSet) -> Result<Brought, Error> {
        let Move { id, transfer: Transfer { from, to, slots }, .. } = moving;
        let (id, from, to) = (*id, *from, *to);
        let ahead = MoveStep::Ahead { id, set: set.clone(), slots: slots.clone() };
        let frozen = match self.ground.step(from, ahead, PATIENCE).await {
            Ok(MoveReply::Noting) => false,
            Ok(MoveReply::Frozen) => true,
            Ok(MoveReply::Cancelled) => return Err(Error::new(Code::Unavailable, "the move was cancelled before")),
            Ok(reply) => return Released::of(reply).map(Brought::Released),
            Err(error) => return later(error),
        };
        let copied = async {
            let open = MoveStep::Open { id, set, slots: slots.clone() };
            let at = staged(self.ground.step(to, open, PATIENCE).await?)?;
            if frozen { Ok(Some(at)) } else { self.copy(moving, at, true).await }
        };
        let at = match copied.await {
            Ok(Some(at)) => at,
            Ok(None) => return Ok(Brought::Ahead(None)),
            Err(error) if frozen => return Err(error),
            Err(error) => return later(error),
        };
        match self.ground.step(from, MoveStep::Freeze { id }, PATIENCE).await? {
            MoveReply::Frozen => (),
            reply => return Released::of(reply).map(Brought::Released),
        }
        self.copy(moving, at, false).await?;
        let (here, there) = futures::join!(self.content(from, moving), self.content(to, moving));
        let (here, there) = (here?, there?);
        if here.changes == there.changes
            && let Some((ours, theirs)) = here.differs(&there)
        {
            let message = format!(
                "slot {}: {} rows of {} bytes on {from}, {} rows of {} bytes on {to}, and their content differs",
                ours.slot, ours.rows, ours.bytes, theirs.rows, theirs.bytes
            );
            return Err(Error::new(Code::MoveMismatch, message));
        }
        // Refused if something has changed since that is not staged.
        let content = Content { changes: there.changes, ..here };
        let release = MoveStep::Release { id, content };
        Released::of(self.ground.step(from, release, PATIENCE).await?).map(Brought::Released)
    }

    /// Copies piece by piece; the next one is read while one is staged. Ahead of the freeze, until little is
    /// left: then it tells where it is, or that it has to go on. Afterwards, to the end.
    async fn copy(&self, moving: &Move, mut at: Cursor, ahead: bool) -> Result<Option<Cursor>, Error> {
        let Move { id, transfer: Transfer { from, to, .. }, .. } = moving;
        let (id, from, to) = (*id, *from, *to);
        let mut next = None;
        for pieces in 0.. {
            if at == Cursor::End {
                return Ok(Some(at));
            }
            if ahead && pieces == AHEAD_PIECES {
                return Ok(None);
            }
            let paced = ahead && matches!(at, Cursor::Rows { .. });
            if paced && !self.keep_pace(id).await {
                return Ok(None);
            }
            let piece = match next.take() {
                Some(piece) => piece,
                None => self.piece(from, id, &at).await?,
            };
            if let (true, Cursor::Rest { changes, .. }) = (ahead, &at)
                && (piece.len() <= SMALL_REST || *changes > MAX_CHANGES_AHEAD)
            {
                return Ok(Some(at));
            }
            let behind = piece.next.clone();
            let bytes: usize = piece.rows.iter().map(|row| row.packed.len()).sum();
            let stage = MoveStep::Stage { id, from: at, piece };
            let start = Instant::now();
            let (reply, read) = match behind {
                Cursor::End => (self.ground.step(to, stage, PATIENCE).await, None),
                _ => {
                    let stage = self.ground.step(to, stage, PATIENCE);
                    let (reply, read) = futures::join!(stage, self.piece(from, id, &behind));
                    (reply, Some(read))
                }
            };
            at = staged(reply?)?;
            if ahead {
                self.ground.rest(start.elapsed()).await;
            }
            if let (true, Some(rate)) = (paced, self.bytes_per_second()) {
                self.pace.copied(id, bytes as u64, rate, self.ground.now_us());
            }
            next = match read {
                // Another driver may have been faster.
                Some(read) if at == behind => Some(read?),
                _ => None,
            };
        }
        Ok(None)
    }

    /// What each of the moves under way may copy in a second.
    fn bytes_per_second(&self) -> Option<u64> {
        let rate = self.job.kind.move_options()?.max_bytes_per_second?;
        Some(rate / self.progress.moving.len().max(1) as u64)
    }

    /// Waits until the next piece may be copied; tells whether it may.
    async fn keep_pace(&self, id: MoveId) -> bool {
        let held = self.pace.held(id, self.ground.now_us());
        if !held.is_zero() {
            self.ground.wait(held.min(LONGEST_WAIT)).await;
        }
        held <= LONGEST_WAIT
    }

    /// Step 6 at the source.
    async fn leave(&self, moving: &Move, released: &Released) -> Result<(), Error> {
        let mut done = released.done;
        while !done {
            let release = MoveStep::Release { id: moving.id, content: Content::default() };
            done = Released::of(self.ground.step(moving.transfer.from, release, STEP).await?)?.done;
        }
        Ok(())
    }

    /// Step 6 at the target.
    async fn take(&self, moving: &Move, released: &Released) -> Result<Epoch, Error> {
        loop {
            let activate = MoveStep::Activate { id: moving.id, rows: released.rows };
            match self.ground.step(moving.transfer.to, activate, STEP).await? {
                MoveReply::Activating => (),
                MoveReply::Activated { epoch } => return Ok(epoch),
                other => return Err(odd(&other)),
            }
        }
    }

    async fn piece(&self, from: GroupId, id: MoveId, at: &Cursor) -> Result<Piece, Error> {
        match self.ground.ask(from, MoveQuery::Export { id, from: at.clone() }).await? {
            MoveAnswer::Piece(piece) => Ok(piece),
            other => Err(odd(&other)),
        }
    }

    async fn content(&self, shard: GroupId, moving: &Move) -> Result<Content, Error> {
        match self.ground.ask(shard, MoveQuery::Content { id: moving.id }).await? {
            MoveAnswer::Content(content) => Ok(content),
            other => Err(odd(&other)),
        }
    }
}

/// Nobody waits for what failed: it is tried again, unless it was refused.
fn later(error: Error) -> Result<Brought, Error> {
    match error.code.class() {
        Class::Refused => Err(error),
        _ => Ok(Brought::Ahead(Some(error))),
    }
}

fn staged(reply: MoveReply) -> Result<Cursor, Error> {
    match reply {
        MoveReply::Staged(at) => Ok(at),
        other => Err(odd(&other)),
    }
}

/// How far a move came in one attempt.
enum Carried {
    /// To its end.
    There,
    /// Not yet to where anybody waits for it; if it could not go on, for this reason.
    Ahead(Option<Error>),
    /// It was cancelled; if nobody wished so, for this reason.
    Cancelled(Option<Error>),
}

/// How far it came before the commit point.
enum Brought {
    Ahead(Option<Error>),
    Released(Released),
}

/// What the source gave up.
struct Released {
    epoch: Epoch,
    rows: u64,
    bytes: u64,
    /// It has none of the rows any more.
    done: bool,
}

impl Released {
    fn of(reply: MoveReply) -> Result<Self, Error> {
        match reply {
            MoveReply::Released { epoch, rows, bytes, done } => Ok(Self { epoch, rows, bytes, done }),
            other => Err(odd(&other)),
        }
    }
}

#[cfg(test)]
mod tests;

//! From waiting writes to log entries, as `propose.rs` of a node does it, over virtual time.

use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::wire::{Body, Command, Outcome, Write, WriteResult};
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::replica::Process;
use super::world::{World, pause, spawn};
use super::{Raft, SimTypes};

/// Entries under way at one replica.
const MAX_UNDER_WAY: usize = 4;

/// Writes of one entry.
const MAX_WRITES_PER_ENTRY: usize = 4;

/// What a replica says to a write.
#[derive(Debug)]
pub enum Answer {
    /// It was applied.
    Applied(WriteResult),
    /// It was not, or nobody knows; another replica may lead.
    Elsewhere(Option<u64>),
}

/// A write with the place where its answer goes.
pub struct Proposal {
    /// The write.
    pub write: Write,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Proposes what waits, until the process ends.
pub async fn propose(world: Arc<World>, process: Arc<Process>, raft: Raft, mut queue: mpsc::Receiver<Proposal>) {
    let places = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    while let (Ok(place), Some(first)) = (Arc::clone(&places).acquire_owned().await, queue.recv().await) {
        // Others may come meanwhile and share the entry.
        let gather = {
            let mut rng = world.rng();
            if rng.percent(50) { rng.micros(0, 2_000) } else { Duration::ZERO }
        };
        if !gather.is_zero() {
            pause(gather).await;
        }
        if !process.is_alive() {
            return;
        }
        let (mut writes, mut replies) = (vec![first.write], vec![first.reply]);
        while writes.len() < MAX_WRITES_PER_ENTRY
            && let Ok(next) = queue.try_recv()
        {
            writes.push(next.write);
            replies.push(next.reply);
        }
        let seed = world.rng().any();
        let command = Command { at_us: world.clock_us(process.node), seed, body: Body::Writes(writes) };
        let (responder, outcome) = ProgressResponder::complete_only();
        let sent = raft.client_write_ff(command, Some(responder)).await;
        let process = Arc::clone(&process);
        spawn(async move {
            let outcome = match sent {
                Ok(()) => outcome.await.ok(),
                Err(_) => None,
            };
            drop(place);
            let answers = match outcome {
                Some(Ok(response)) => applied(response.data),
                Some(Err(error)) => elsewhere(&error, replies.len()),
                None => Vec::new(),
            };
            for (reply, answer) in replies.into_iter().zip(answers) {
                if process.is_alive() {
                    reply.send(answer).ok();
                }
            }
        });
    }
}

fn applied(outcome: Outcome) -> Vec<Answer> {
    match outcome {
        Outcome::Writes(results) => results.into_iter().map(Answer::Applied).collect(),
        _ => Vec::new(),
    }
}

fn elsewhere(error: &ClientWriteError<SimTypes>, count: usize) -> Vec<Answer> {
    let leader = match error {
        ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => forward.leader_id,
        _ => None,
    };
    (0..count).map(|_| Answer::Elsewhere(leader)).collect()
}

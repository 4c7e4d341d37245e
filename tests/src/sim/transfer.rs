//! A page transfer: the real reading and writing ends, over a slow link that may break anywhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_node::consensus::{SnapshotMeta, Vote};
use flotilla_node::state::pages::{Incoming, Outgoing};
use flotilla_node::state::{SnapshotSource, Store};
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;
use tokio::sync::oneshot;

use super::SimTypes;
use super::bugs::Bug;
use super::network::{RpcResult, Target, no_answer, unreachable};
use super::replica::{Death, Life, crash_and_restart};
use super::world::{spawn, within};

/// Bytes of one message: a small part of what a node sends at once, so that there are many.
const MESSAGE_BYTES: usize = 4 << 10;

/// How long the follower may take to put the whole in place.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(3);

fn failed(error: &impl std::fmt::Display) -> openraft::errors::RPCError<SimTypes> {
    unreachable(&error.to_string())
}

/// Sends the database to a replica and has it put in place.
///
/// # Errors
/// When the link breaks or an end dies.
pub async fn send(target: &Target, vote: Vote, store: &Arc<Store>) -> RpcResult<SnapshotResponse<SimTypes>> {
    let (world, from, to) = (&target.world, target.from.node, target.to);
    let mut outgoing = Outgoing::open(store).map_err(|error| failed(&error))?;
    target.travel().await;
    let life = target.receiver().ok_or_else(|| unreachable("nobody is there"))?;
    let id = world.rng().any();
    let mut incoming = Incoming::create(life.process.store().folder(), id).map_err(|error| failed(&error))?;
    let index = outgoing.applied.log_id.map_or(0, |id| id.index);
    world.note(format_args!("{from} -> {to} pages as of {index}"));
    while let Some(chunk) = outgoing.next_chunk().map_err(|error| failed(&error))? {
        for message in chunk.chunks(MESSAGE_BYTES) {
            target.travel().await;
            ambush(target);
            if !target.receiver().is_some_and(|now| Arc::ptr_eq(&now, &life)) {
                world.note(format_args!("{from} -> {to} pages break off"));
                return Err(no_answer());
            }
            incoming.write(message).map_err(|error| failed(&error))?;
        }
    }
    target.travel().await;
    if !target.receiver().is_some_and(|now| Arc::ptr_eq(&now, &life)) {
        return Err(no_answer());
    }
    let applied = outgoing.applied.clone();
    let file = incoming.finish(outgoing.digest()).map_err(|error| failed(&error))?;
    if world.has(Bug::DamagedPage) {
        damage(&file).map_err(|error| failed(&error))?;
    }
    drop(outgoing);
    let meta = SnapshotMeta { last_log_id: applied.log_id, last_membership: applied.membership };
    let snapshot = Snapshot { meta, snapshot: SnapshotSource::File(file) };
    install(target, &life, vote, snapshot).await
}

async fn install(
    target: &Target,
    life: &Arc<Life>,
    vote: Vote,
    snapshot: flotilla_node::state::machine::StateSnapshot,
) -> RpcResult<SnapshotResponse<SimTypes>> {
    let (reply, answer) = oneshot::channel();
    let (receiver, link) = (Arc::clone(life), target.clone());
    spawn(async move {
        let installed = receiver.raft.install_full_snapshot(vote, snapshot).await;
        link.travel_back().await;
        if let (Ok(response), true) = (installed, link.answers(&receiver)) {
            reply.send(response).ok();
        }
    });
    match within(INSTALL_TIMEOUT, answer).await {
        Some(Ok(response)) => Ok(response),
        _ => Err(no_answer()),
    }
}

/// If one is laid, one end dies in the middle.
fn ambush(target: &Target) {
    let world = &target.world;
    if !world.rng().percent(15) || !world.ambush.swap(false, Ordering::Relaxed) {
        return;
    }
    let (victim, death, after) = {
        let mut rng = world.rng();
        let victim = if rng.percent(70) { target.to } else { target.from.node };
        (victim, rng.pick(&[Death::Killed, Death::PowerLoss]), rng.millis(10, 800))
    };
    world.note(format_args!("ambush: {victim} dies in the middle of a page transfer"));
    crash_and_restart(world, victim, death, after);
}

/// Changes one value, as a broken page would.
fn damage(file: &std::path::Path) -> rusqlite::Result<()> {
    let db = rusqlite::Connection::open(file)?;
    db.execute_batch("UPDATE counters SET n = n + 1000 WHERE id = 0")
}

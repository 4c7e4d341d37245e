//! A stream of appends to one replica, many on the way at once, in order.
//!
//! As in a node: the receiver feeds openraft's own pipelined stream and pairs its answers with the
//! requests; openraft ends the stream at the first refusal, and then the connection is over.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, pin_mut, stream};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use openraft::{AsyncRuntime, Instant as _};
use openraft_rt_sim::{SimInstant, SimRuntime};
use tokio::sync::{mpsc, oneshot};

use super::SimTypes;
use super::network::{APPEND_TIMEOUT, RpcResult, Target, no_answer, unreachable};
use super::replica::Life;
use super::world::{spawn, within};

/// Appends on the way to one follower.
pub const MAX_APPENDS_ON_THE_WAY: usize = 16;

type Request = AppendEntriesRequest<SimTypes>;
type Reply = oneshot::Sender<StreamAppendResult<SimTypes>>;

struct OnTheWay {
    arrives: SimInstant,
    request: Request,
    reply: Reply,
}

/// The sending end of a connection.
#[derive(Clone)]
pub struct Lane {
    queue: mpsc::UnboundedSender<OnTheWay>,
    last: Arc<Mutex<SimInstant>>,
}

/// Connects to a replica.
///
/// # Errors
/// When nobody is there.
pub async fn open(target: &Target) -> RpcResult<Lane> {
    target.travel().await;
    let life = target.receiver().ok_or_else(|| unreachable("nobody is there"))?;
    let (queue, requests) = mpsc::unbounded_channel();
    spawn(receive(target.clone(), life, requests));
    Ok(Lane { queue, last: Arc::new(Mutex::new(SimInstant::now())) })
}

impl Lane {
    /// Sends an append behind those before it.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn send(
        &self,
        target: &Target,
        request: Request,
    ) -> RpcResult<oneshot::Receiver<StreamAppendResult<SimTypes>>> {
        target.note_append(&request);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let arrives = (*last).max(SimInstant::now() + target.world.delay(target.from.node, target.to));
        *last = arrives;
        let (reply, answer) = oneshot::channel();
        let sent = self.queue.send(OnTheWay { arrives, request, reply });
        sent.map_err(|_| unreachable("the connection is over"))?;
        Ok(answer)
    }
}

/// Waits for the answer to an append.
///
/// # Errors
/// When none comes.
pub async fn answered(
    sent: RpcResult<oneshot::Receiver<StreamAppendResult<SimTypes>>>,
) -> RpcResult<StreamAppendResult<SimTypes>> {
    match within(APPEND_TIMEOUT, sent?).await {
        Some(Ok(result)) => Ok(result),
        _ => Err(no_answer()),
    }
}

/// The receiving end.
async fn receive(target: Target, life: Arc<Life>, requests: mpsc::UnboundedReceiver<OnTheWay>) {
    let pending: Arc<Mutex<VecDeque<Reply>>> = Arc::default();
    let taken = Arc::clone(&pending);
    let (link, receiver) = (target.clone(), Arc::clone(&life));
    let input = stream::unfold(requests, move |mut requests| {
        let (link, receiver, taken) = (link.clone(), Arc::clone(&receiver), Arc::clone(&taken));
        async move {
            let next: OnTheWay = requests.recv().await?;
            SimRuntime::sleep_until(next.arrives).await;
            // A new process on that node knows nothing of this connection.
            link.receiver().filter(|life| Arc::ptr_eq(life, &receiver))?;
            taken.lock().unwrap_or_else(PoisonError::into_inner).push_back(next.reply);
            Some((next.request, requests))
        }
    });
    let results = life.raft.stream_append(Box::pin(input));
    pin_mut!(results);
    while let Some(Ok(result)) = results.next().await {
        let reply = pending.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some(reply) = reply else { break };
        let (link, life) = (target.clone(), Arc::clone(&life));
        spawn(async move {
            link.travel_back().await;
            if link.answers(&life) {
                reply.send(result).ok();
            }
        });
    }
}

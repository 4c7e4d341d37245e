//! The balancer: leaders spread over the nodes that are up, and kept in the zones that their groups
//! prefer.
//!
//! The node that leads `meta` asks all nodes for their state, over and over, decides purely
//! ([`decide`]), and asks the leader of one group at a time to hand over. It keeps nothing: the next
//! leader of `meta` looks for as long as the bounds say before it moves anything. Operators switch it
//! off by `POST /leaders`, or by [`LeaderRules::still`](flotilla_shared::registry::LeaderRules::still).

pub mod decide;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::ids::{META, NodeId};
use flotilla_shared::leaders::HandedOver;
use flotilla_shared::registry::Registry;
use flotilla_shared::wire::{NodeStatus, ReplicaStatus, Request, Response};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::Host;
use crate::propose::now_us;
use decide::{Balancer, Bounds, GroupView, Transfer, View};

/// Entries that a replica may miss to be thought of as a leader. Reports are not of one moment, so a
/// healthy one may seem to miss some; whoever hands over looks again.
const FIT_LAG_ENTRIES: u64 = 1000;

/// Nodes asked at once.
const MAX_ASKED: usize = 64;

/// How long one hand-over may take before it counts as failed; it ends by itself before.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Balances leaders whenever this node leads `meta`, until `stop`.
pub async fn drive(host: Arc<Host>, mut stop: watch::Receiver<bool>) {
    let look = host.options().election_timeout_max;
    let work = async {
        let start = Instant::now();
        let mut balancer = None;
        loop {
            tokio::time::sleep(look).await;
            let meta = host.replica(META).filter(|replica| replica.leads());
            let registry = meta.map(|meta| Arc::clone(&meta.state().registry().borrow()));
            let Some(registry) = registry.filter(|registry| registry.cluster != 0) else {
                balancer = None;
                host.balancing(|status| *status = None);
                continue;
            };
            if registry.leaders.still {
                balancer = None;
                host.balancing(|status| status.get_or_insert_default().on = false);
                continue;
            }
            let view = view(&registry, &reports(&host, &registry, look).await);
            let even = view.next(|_| true, |_| true).is_none();
            host.balancing(|status| {
                let status = status.get_or_insert_default();
                (status.on, status.even) = (true, even);
            });
            let balancer = balancer.get_or_insert_with(|| Balancer::new(Bounds::new(look)));
            if let Some(transfer) = balancer.decide(start.elapsed(), &view) {
                carry_out(&host, transfer).await;
            }
        }
    };
    tokio::select! {
        () = work => (),
        _ = stop.wait_for(|stop| *stop) => (),
    }
}

async fn carry_out(host: &Host, Transfer { group, from, to }: Transfer) {
    let request = Request::HandOver { group, to: Some(to) };
    let outcome = host.cluster().ask(from, request, Instant::now() + HAND_OVER).await;
    let error = outcome.err();
    match &error {
        None => tracing::info!(%group, %from, %to, "leaders are balanced: one was handed over"),
        Some(error) => tracing::warn!(%group, %from, %to, %error, "leaders are not balanced: a hand-over failed"),
    }
    host.balancing(|status| {
        let status = status.get_or_insert_default();
        match &error {
            None => status.handed_over += 1,
            Some(_) => status.failed += 1,
        }
        let error = error.map(|error| error.message);
        status.last = Some(HandedOver { group, from, to, at_us: now_us(), error });
    });
}

/// What the nodes that are up say.
async fn reports(host: &Host, registry: &Registry, patience: Duration) -> BTreeMap<NodeId, NodeStatus> {
    let own = host.identity().node;
    let others = registry.nodes.iter().filter(|(node, info)| !info.removed && **node != own);
    let asked: Vec<_> = others
        .map(|(node, info)| async move {
            let answer = host.cluster().pool().request(&info.raft_addr, Request::Status, patience);
            match tokio::time::timeout(patience, answer).await {
                Ok(Ok(Ok(Response::Status(status)))) if status.identity.node == *node => Some((*node, status)),
                _ => None,
            }
        })
        .collect();
    let answers = futures::stream::iter(asked).buffer_unordered(MAX_ASKED);
    let mut reports: BTreeMap<_, _> = answers.filter_map(std::future::ready).collect().await;
    reports.insert(own, host.status());
    reports
}

/// What is decided by.
fn view(registry: &Registry, reports: &BTreeMap<NodeId, NodeStatus>) -> View {
    let groups = registry.groups.keys().map(|group| {
        let of_group = || {
            let replicas = |(node, status): (&NodeId, &NodeStatus)| {
                let found = status.replicas.iter().find(|replica| replica.group == *group);
                found.map(|replica| (*node, replica.clone()))
            };
            reports.iter().filter_map(replicas)
        };
        // Of several that believe to lead, the one of the newest term is right.
        let leader = of_group().filter(|(_, replica)| replica.role == "leader").max_by_key(|(_, replica)| replica.term);
        let is_fit = |replica: &ReplicaStatus| {
            leader.as_ref().is_some_and(|(_, leader)| {
                let caught_up = replica.last_log + FIT_LAG_ENTRIES >= leader.last_log;
                leader.voters.contains(&replica.replica) && caught_up && replica.role != "stopped"
            })
        };
        let fit: BTreeSet<NodeId> = of_group().filter(|(_, replica)| is_fit(replica)).map(|(node, _)| node).collect();
        let leader = leader.as_ref().map(|(node, leader)| (*node, leader.term));
        (*group, GroupView { leader, fit, preferred: registry.leaders.preferred.get(group).cloned() })
    });
    let zone = |node: &NodeId| registry.nodes.get(node).and_then(|info| info.zone.clone());
    // A node that is drained is to lead nothing.
    let fit = |node: &NodeId, status: &NodeStatus| !status.stopping && !registry.draining.contains(node);
    let up = reports.iter().filter(|(node, status)| fit(node, status)).map(|(node, _)| (*node, zone(node)));
    View { groups: groups.collect(), up: up.collect() }
}

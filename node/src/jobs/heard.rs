//! When each node was last heard of: asked by the leader of `meta`, for whoever has to know which nodes
//! are dead.
//!
//! It is kept in memory. A new leader knows of a silent node only that it was silent since that leader
//! began, so the answer is never longer than the truth, and a repair after a change of leader waits the
//! whole bound once more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flotilla_shared::error::Error;
use flotilla_shared::ids::{META, NodeId};

use crate::host::Host;

/// Pause between two rounds: a fraction of any time that makes a node count as dead.
const ROUND: Duration = Duration::from_millis(500);

/// What the leader of `meta` has heard.
#[derive(Debug, Default)]
pub struct Heard(Mutex<Option<Ears>>);

#[derive(Debug)]
struct Ears {
    since: Instant,
    nodes: HashMap<NodeId, Instant>,
}

impl Heard {
    fn with<T>(&self, look: impl FnOnce(&mut Option<Ears>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For how many milliseconds each of these nodes has been silent.
    fn silence(&self, nodes: impl Iterator<Item = NodeId>) -> Vec<(NodeId, u64)> {
        self.with(|ears| {
            let silent = |node: &NodeId| {
                let ears = ears.as_ref()?;
                Some(ears.nodes.get(node).unwrap_or(&ears.since).elapsed().as_millis() as u64)
            };
            nodes.map(|node| (node, silent(&node).unwrap_or(0))).collect()
        })
    }
}

/// Asks all nodes, round after round, whenever this node leads `meta`. Never returns.
pub(super) async fn listen(host: &Arc<Host>) {
    loop {
        match host.replica(META).filter(|replica| replica.leads()) {
            None => host.heard().with(|ears| *ears = None),
            Some(replica) => {
                let since = Instant::now();
                let registry = replica.state().registry().borrow().clone();
                let states = host.cluster().states(&registry).await;
                let now = Instant::now();
                host.heard().with(|ears| {
                    let ears = ears.get_or_insert_with(|| Ears { since, nodes: HashMap::new() });
                    ears.nodes.extend(states.keys().map(|node| (*node, now)));
                });
            }
        }
        tokio::time::sleep(ROUND).await;
    }
}

/// For how many milliseconds each node has been silent, as far as the leader of `meta` knows.
///
/// # Errors
/// That this node does not lead `meta`.
pub fn silence(host: &Host) -> Result<Vec<(NodeId, u64)>, Error> {
    let replica = host.hosted(META)?;
    if !replica.leads() {
        return Err(Error::not_leader(host.cluster().leader(META)));
    }
    let registry = replica.state().registry();
    let registry = registry.borrow();
    Ok(host.heard().silence(registry.nodes.iter().filter(|(_, info)| !info.removed).map(|(node, _)| *node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who does not lead says that nobody was silent; who leads counts from its beginning.
    #[test]
    fn silence_is_never_too_long() {
        let heard = Heard::default();
        let ask = || heard.silence([NodeId(1), NodeId(2)].into_iter());
        assert_eq!(ask(), [(NodeId(1), 0), (NodeId(2), 0)]);
        let minute_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        let nodes = HashMap::from([(NodeId(1), Instant::now())]);
        heard.with(|ears| *ears = Some(Ears { since: minute_ago, nodes }));
        let [(_, one), (_, two)] = ask()[..] else { panic!() };
        assert!(one < 30_000 && (60_000..90_000).contains(&two), "{one} {two}");
    }
}

//! How long a node takes to come back: killed, it misses some rows, and is started again.

use std::time::{Duration, Instant};

use super::super::own::Target;
use super::super::scrape;
use super::{APPLIED, LOOK, SHARD, of_shard, own};
use crate::commands::CommandError;
use crate::http_client::{Call, Client};

/// Restarts; the median counts.
const RESTARTS: u64 = 3;

/// Rows that the node misses each time: few enough to come from the log.
const MISSED_ROWS: u64 = 2000;

/// Pause between two looks at a node that starts: its time is known to this.
const READY_LOOK: Duration = Duration::from_millis(2);

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// One restart, each time counted from the start of the process.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// Until it answers at all.
    pub answers: Duration,
    /// Until it has all that was committed when it was started.
    pub caught_up: Duration,
    /// Until it says that it is ready.
    pub ready: Duration,
}

/// Restarts a follower of the shard; none if there is no follower. `loaded` rows are there already.
pub async fn measure(target: &mut Target, loaded: u64, row_bytes: u64) -> Result<Option<Restart>, CommandError> {
    let nodes = own(target)?.nodes.clone();
    let mut leader = None;
    for (number, url) in nodes.iter().enumerate() {
        if of_shard(&scrape::metrics(url).await?, "flotilla_node_leader") == 1.0 {
            leader = Some(number);
        }
    }
    let leader = leader.ok_or_else(|| CommandError::Failed(format!("nobody leads {SHARD}")))?;
    let Some(node) = (0..nodes.len()).find(|node| *node != leader) else { return Ok(None) };
    let mut restarts = vec![];
    for number in 0..RESTARTS {
        eprintln!("restarting node {} of {}", node + 1, nodes.len());
        process(target, node)?.kill();
        let first = loaded + 1 + number * MISSED_ROWS;
        super::load(target, first..first + MISSED_ROWS, row_bytes).await?;
        let wanted = of_shard(&scrape::metrics(&nodes[leader]).await?, APPLIED);
        restarts.push(one(target, node, wanted).await?);
        super::calm(&nodes).await?;
    }
    restarts.sort_by_key(|restart| restart.ready);
    Ok(restarts.get(restarts.len() / 2).copied())
}

fn process(target: &mut Target, node: usize) -> Result<&mut super::super::own::process::Process, CommandError> {
    let gone = || CommandError::Failed("the cluster is gone".into());
    target.own.as_mut().and_then(|own| own.processes.get_mut(node)).ok_or_else(gone)
}

async fn one(target: &mut Target, node: usize, wanted: f64) -> Result<Restart, CommandError> {
    let mut client = Client::new(own(target)?.nodes[node].clone());
    process(target, node)?.start_again()?;
    let begun = Instant::now();
    let (mut answers, mut caught_up, mut ready) = (None, None, None);
    while caught_up.is_none() || ready.is_none() {
        if let Ok(reply) = client.send(&Call::get("/readyz")).await {
            answers.get_or_insert_with(|| begun.elapsed());
            if reply.status == 200 {
                ready.get_or_insert_with(|| begun.elapsed());
            }
        }
        if answers.is_some()
            && caught_up.is_none()
            && let Ok(samples) = scrape::metrics_of(&mut client).await
            && of_shard(&samples, APPLIED) >= wanted
        {
            caught_up = Some(begun.elapsed());
        }
        process(target, node)?.check()?;
        if begun.elapsed() > PATIENCE {
            return Err(CommandError::Failed(format!("node {} was not ready after {PATIENCE:?}", node + 1)));
        }
        tokio::time::sleep(if ready.is_none() { READY_LOOK } else { LOOK }).await;
    }
    let known = |time: Option<Duration>| time.unwrap_or_default();
    Ok(Restart { answers: known(answers), caught_up: known(caught_up), ready: known(ready) })
}

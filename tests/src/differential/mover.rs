//! Moves the slots of a cluster's tables from shard to shard, for as long as statements are compared: with
//! weights that chance gives, one job after the other, some of them cancelled in the middle.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::harness::Client;
use crate::sim::random::Rng;

/// How long a job may work before it is cancelled, in looks at it: the next table shall get its turn.
const LOOKS: u32 = 40;

/// Pause between two looks at a job.
const PAUSE: Duration = Duration::from_millis(25);

/// Largest weight of a shard.
const MAX_WEIGHT: u64 = 3;

/// Starts jobs, and counts what they move.
pub struct Mover {
    client: Client,
    rng: Rng,
    /// Slots that have moved.
    pub slots: u64,
    /// Rows that have moved.
    pub rows: u64,
    /// Jobs by how they ended, and why.
    pub jobs: BTreeMap<String, u64>,
}

impl Mover {
    /// For a cluster that is reached there.
    pub fn new(address: &str, seed: u64) -> Self {
        let client = Client::new(address);
        Self { client, rng: Rng::new(seed), slots: 0, rows: 0, jobs: BTreeMap::new() }
    }

    /// Goes on until it is dropped.
    pub async fn run(&mut self) {
        loop {
            match self.table().await {
                Some((table, shards)) => self.rebalance(&table, &shards).await,
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// A table that is spread by a key, and the shards that may hold it.
    async fn table(&mut self) -> Option<(String, Vec<String>)> {
        let all = self.client.get("/table").await.ok()?.json();
        let text = |value: &Json| Some(value.as_str()?.to_owned());
        let spread = |table: &&Json| table["sharded"] == true && table["shard_func"] != "reference";
        let found = all["tables"].as_array()?.iter().filter(spread).filter_map(|table| {
            let shards = table["shards"].as_array()?.iter().filter_map(|shard| text(&shard["id"]));
            Some((text(&table["name"])?, shards.collect()))
        });
        let found: Vec<_> = found.collect();
        let at = self.rng.below(found.len().max(1) as u64) as usize;
        found.into_iter().nth(at)
    }

    async fn rebalance(&mut self, table: &str, shards: &[String]) {
        let mut weights: BTreeMap<&str, u64> =
            shards.iter().map(|shard| (shard.as_str(), self.rng.below(MAX_WEIGHT + 1))).collect();
        let one = self.rng.below(shards.len() as u64) as usize;
        weights.insert(&shards[one], MAX_WEIGHT);
        let body = json!({ "table_name": table, "weights": weights });
        let Ok(started) = self.client.post("/table/rebalance", &body).await else { return };
        // Refused when the table was dropped meanwhile; then there is no job.
        let started = started.json();
        let Some(id) = started["job"].as_str() else {
            let known = matches!(started["error"]["code"].as_str(), None | Some("no_such_table" | "conflict"));
            let later = started["error"]["code"] == "timeout" || started["error"]["code"] == "unavailable";
            assert!(known || later, "{body}: {started}");
            return;
        };
        for look in 0.. {
            if look == LOOKS {
                self.client.post(&format!("/job/{id}/cancel"), &json!({})).await.ok();
            }
            let Ok(reply) = self.client.get(&format!("/job/{id}")).await else { continue };
            let job = reply.json();
            match job["state"].as_str() {
                Some("running") => tokio::time::sleep(PAUSE).await,
                Some(state) => {
                    let code = job["error"]["code"].as_str().map_or(String::new(), |code| format!(": {code}"));
                    *self.jobs.entry(format!("{state}{code}")).or_default() += 1;
                    if state == "failed" {
                        println!("{body}: {}", job["error"]);
                    }
                    self.slots += job["slots_moved"].as_u64().unwrap_or_default();
                    self.rows += job["rows_moved"].as_u64().unwrap_or_default();
                    return;
                }
                None => return,
            }
        }
    }
}

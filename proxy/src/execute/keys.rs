//! Cluster-unique integer keys for rows that come without one.
//!
//! The registry hands out blocks; this is the proxy's store of them, per table. A key may be wanted
//! on a certain shard: keys that fall elsewhere are kept for later. Keys left in a block when the
//! proxy stops are never used; keys are unique, not gapless.

use std::collections::VecDeque;
use std::sync::Arc;

use dashmap::DashMap;
use flotilla_shared::client::Cluster;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::SchemaVersion;
use flotilla_shared::registry::{MetaCommand, MetaReply, Registry};
use flotilla_shared::slot::HASH_SLOTS;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Keys of one block: at 10,000 inserts a second, ten trips to the registry.
pub const KEY_BLOCK: u32 = 1000;

/// Keys kept for other shards; the oldest go first.
const MAX_SPARE_KEYS: usize = 10_000;

/// Keys looked at per wanted key; past it the next one is taken wherever it falls, if that does no harm.
const MAX_TRIES_PER_KEY: usize = 2000;

/// Keys looked at for one that must fall on a certain shard: sixteen for each hash slot, so that even a shard of a
/// single slot is missed once in nine million times only. As shards are wanted in proportion to their slots, the mean
/// is one try per shard.
const MAX_TRIES_TO_FIT: usize = 16 * HASH_SLOTS as usize;

#[derive(Default)]
struct Block {
    next: i64,
    end: i64,
    at_least: i64,
    spare: VecDeque<i64>,
    schema: SchemaVersion,
}

/// The blocks at hand, by lower-case table name.
#[derive(Default)]
pub struct KeyBlocks {
    blocks: DashMap<String, Arc<Mutex<Block>>>,
}

impl KeyBlocks {
    fn block(&self, table: &str) -> Arc<Mutex<Block>> {
        match self.blocks.get(table) {
            Some(block) => Arc::clone(&block),
            None => Arc::clone(&self.blocks.entry(table.to_owned()).or_default()),
        }
    }

    /// One key per element of `fits`, each of which says whether a key is on the right shard. With `must_fit` no other
    /// keys are taken: a retry of the request looks for what it did on that shard alone.
    ///
    /// # Errors
    /// When the registry cannot be reached before the deadline; [`Code::Unavailable`] when no key fits that must.
    pub async fn take(
        &self,
        cluster: &Cluster,
        registry: &Registry,
        table: &str,
        fits: &[impl Fn(i64) -> bool],
        must_fit: bool,
        deadline: Instant,
    ) -> Result<Vec<i64>, Error> {
        let block = self.block(table);
        let mut block = block.lock().await;
        block.forget_if_dropped(registry, table);
        let mut keys = Vec::with_capacity(fits.len());
        for fit in fits {
            if let Some(at) = block.spare.iter().position(|key| fit(*key)) {
                keys.extend(block.spare.remove(at));
                continue;
            }
            let mut tried = 0;
            loop {
                if tried >= MAX_TRIES_TO_FIT {
                    return Err(Error::new(
                        Code::Unavailable,
                        format!("no new key of {table} falls on the right shard"),
                    )
                    .hint("retry; or give the key yourself"));
                }
                if block.next >= block.end {
                    // As many again as were looked at: few trips to the registry, however rare those are that fit.
                    let wanted = KEY_BLOCK.max((fits.len() - keys.len()).max(tried) as u32);
                    block.reserve(cluster, table, wanted, deadline).await?;
                    block.schema = registry.schema_version;
                }
                let key = block.next;
                block.next += 1;
                tried += 1;
                if fit(key) || (!must_fit && tried >= MAX_TRIES_PER_KEY) {
                    keys.push(key);
                    break;
                }
                block.spare.push_back(key);
                if block.spare.len() > MAX_SPARE_KEYS {
                    block.spare.pop_front();
                }
            }
        }
        Ok(keys)
    }

    /// Is it known from where on keys of this table are free?
    pub async fn is_raised(&self, registry: &Registry, table: &str) -> bool {
        let block = self.block(table);
        let mut block = block.lock().await;
        block.forget_if_dropped(registry, table);
        block.at_least > 0
    }

    /// Makes sure that no key below `at_least` is taken any more.
    pub async fn raise(&self, table: &str, at_least: i64) {
        let block = self.block(table);
        let mut block = block.lock().await;
        block.at_least = block.at_least.max(at_least);
        block.next = block.next.max(at_least);
        block.spare.retain(|key| *key >= at_least);
    }
}

impl Block {
    async fn reserve(&mut self, cluster: &Cluster, table: &str, count: u32, deadline: Instant) -> Result<(), Error> {
        let command = MetaCommand::ReserveKeys { table: table.to_owned(), count, at_least: self.at_least };
        match cluster.meta(command, deadline).await {
            Ok(MetaReply::Keys(first)) => {
                (self.next, self.end) = (first, first + i64::from(count));
                Ok(())
            }
            Ok(other) => {
                Err(Error::new(Code::WrongPeer, format!("the registry answered {other:?} to a wish for keys")))
            }
            // Keys that were reserved but never heard of are lost, and nothing else happened.
            Err(error) if error.code == Code::OutcomeUnknown => Err(Error { code: Code::Unavailable, ..error }),
            Err(error) => Err(error),
        }
    }

    /// A table that was dropped and made again starts anew in the registry; so must the block. The
    /// schema version tells that from a registry that has not heard of our reservation yet.
    fn forget_if_dropped(&mut self, registry: &Registry, table: &str) {
        if self.schema == registry.schema_version {
            return;
        }
        if registry.next_key.get(table).is_none_or(|next| *next < self.end) {
            *self = Self::default();
        }
        self.schema = registry.schema_version;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::fake::FakeNode;

    /// A key that must fall on a certain shard is looked for until it does, however few slots the shard has: a retry
    /// would look for its row there. Where none falls, nothing is taken; where it need not, the next one is.
    #[tokio::test]
    async fn keys_that_must_fit() {
        let (_node, cluster) = FakeNode::start(1).await;
        let deadline = Instant::now() + Duration::from_secs(60);
        let registry = cluster.refresh(deadline).await.unwrap();
        let keys = KeyBlocks::default();
        let one_slot = [|key: i64| key % i64::from(HASH_SLOTS) == 9000, |key: i64| key % 2 == 0];
        let taken = keys.take(&cluster, &registry, "t", &one_slot, true, deadline).await.unwrap();
        assert_eq!((taken[0] % i64::from(HASH_SLOTS), taken[1] % 2), (9000, 0));
        let none = [|_: i64| false];
        let error = keys.take(&cluster, &registry, "t", &none, true, deadline).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        let anywhere = keys.take(&cluster, &registry, "t", &none, false, deadline).await.unwrap();
        assert!(anywhere[0] > 0);
    }
}

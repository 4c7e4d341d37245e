//! The consensus library's own storage tests, on the real log and the real state machine, on disk.

use std::sync::{Arc, Mutex};

use flotilla_node::consensus::Types;
use flotilla_node::log::{GroupLog, RealDisk, Wal, WalOptions, WriterThread};
use flotilla_node::state::machine::StateHandle;
use flotilla_node::state::{Inline, StateMachine, Store};
use flotilla_shared::ids::GroupId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

struct OnDisk;

type Guard = (WriterThread, Mutex<tempfile::TempDir>);

impl StoreBuilder<Types, GroupLog<Types>, StateMachine<Types>, Guard> for OnDisk {
    async fn build(&self) -> Result<(Guard, GroupLog<Types>, StateMachine<Types>), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(folder.path().join("wal")).unwrap());
        let (wal, writer) = Wal::open(disk, WalOptions { segment_bytes: 1 << 20, ..WalOptions::default() }).unwrap();
        let (store, db) = Store::open(&folder.path().join("shard1"), Arc::new(Inline), 1).unwrap();
        let state = StateHandle::open(store, db, GroupId(1)).unwrap();
        Ok(((writer.spawn().unwrap(), Mutex::new(folder)), GroupLog::new(wal, GroupId(1)), state.machine()))
    }
}

/// Everything that the consensus library expects of a log and a state machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_suite() {
    Suite::test_all(OnDisk).await.unwrap();
}

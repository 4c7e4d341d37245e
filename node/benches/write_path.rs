//! What a write costs on its way, step by step, without a network and without a disk: `cargo bench -p
//! flotilla-node`.
//!
//! The slot of its key, its request as it travels, its entry in the log (whose disk is memory: what is
//! measured is the processor's part), and its application to SQLite, alone and with others.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use flotilla_node::consensus::{CommittedLeaderId, Entry, LogId, Payload};
use flotilla_node::log::{SimDisk, Wal, WalOptions, numbered};
use flotilla_node::stages::{NodeStages, Stage};
use flotilla_node::state::machine::StateHandle;
use flotilla_node::state::{Inline, Store};
use flotilla_shared::ids::{GroupId, JobId, RequestId, SchemaVersion};
use flotilla_shared::rpc::encode;
use flotilla_shared::slot::{Affinity, Collation, KeyColumn, slot_of};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::{Body, Command, Envelope, Request, ShardCommand, Statement, Write};

const SHARD: GroupId = GroupId(2);

/// Writes of one entry.
const SIZES: [u64; 3] = [1, 16, 256];

fn write(id: u64) -> Write {
    let args = vec![Value::Integer(id as i64), Value::Integer(0), Value::Text(format!("client 1 row {id}"))];
    let sql = "INSERT INTO bench (id, ts, name) VALUES (?, ?, ?)".to_owned();
    let statement = Statement { sql, params: Params::Positional(args) };
    Write { id: RequestId(id.into()), route: None, statements: vec![statement] }
}

fn slots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slot");
    for (name, affinity, value) in [
        ("integer", Affinity::Integer, Value::Integer(456)),
        ("text", Affinity::Text, Value::Text("a customer's name".into())),
    ] {
        let column = [KeyColumn { affinity, collation: Collation::Binary }];
        group.bench_function(name, |bencher| {
            bencher.iter(|| slot_of(&column, black_box(std::slice::from_ref(&value)), 16_384));
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let timeout = Duration::from_secs(1);
    for size in SIZES {
        let request = || Request::Write { group: SHARD, writes: (0..size).map(write).collect() };
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("encode", size), |bencher| {
            bencher.iter_batched(request, |request| encode(request, timeout), BatchSize::SmallInput);
        });
        let encoded = encode(request(), timeout);
        group.bench_function(BenchmarkId::new("decode", size), |bencher| {
            bencher.iter(|| postcard::from_bytes::<Envelope>(black_box(&encoded)).expect("it was encoded"));
        });
    }
    group.finish();
}

fn log_append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log append");
    let payload = [7; 256];
    // Nothing of it waits.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for size in SIZES {
        let (wal, mut writer) = Wal::open(Arc::new(SimDisk::new()), WalOptions::default()).expect("a log");
        let mut next = 1;
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let entries: Vec<Bytes> = (next..next + size).map(|index| numbered(index, &payload)).collect();
                next += size;
                runtime.block_on(wal.append(SHARD, entries, None)).expect("it takes them");
                let batch = writer.take_batch().expect("a batch");
                writer.write_batch(batch).expect("memory does not fail");
                // As compaction does: else memory would grow with every round.
                if next % 65_536 < size {
                    let purged = numbered(next - 1, &payload);
                    runtime.block_on(wal.purge(SHARD, purged)).expect("it takes that");
                }
            });
        });
    }
    group.finish();
}

fn entry(index: u64, body: Body) -> Entry {
    let command = Command { at_us: index as i64, seed: index, body };
    let log_id = LogId { leader_id: CommittedLeaderId::new(1), index };
    Entry { log_id, payload: Payload::Normal(command) }
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for size in SIZES {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, db) = Store::open(folder.path(), Arc::new(Inline), 1).expect("a store");
        let state = StateHandle::open(store, db, SHARD).expect("a state machine");
        let sql = vec!["CREATE TABLE bench (id INTEGER PRIMARY KEY, ts INTEGER, name TEXT)".to_owned()];
        let schema = ShardCommand::Schema { job: JobId(1), version: SchemaVersion(1), sql, dry_run: false };
        state.lock().apply(&[entry(1, Body::Shard(schema))]).expect("a table");
        let mut index = 1;
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let make = || {
                index += 1;
                [entry(index, Body::Writes((index * 1000..index * 1000 + size).map(write).collect()))]
            };
            bencher.iter_batched(make, |entries| state.lock().apply(&entries), BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn stages(criterion: &mut Criterion) {
    let stages = NodeStages::default();
    criterion.bench_function("stage, with its clock", |bencher| {
        bencher.iter(|| stages.observe(Stage::Queue, std::time::Instant::now().elapsed()));
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    slots(&mut criterion);
    codec(&mut criterion);
    log_append(&mut criterion);
    apply(&mut criterion);
    stages(&mut criterion);
    criterion.final_summary();
}

//! A node that leads every group alone: each shard is a SQLite database in memory, the registry is a
//! value. It remembers request ids and checks claims as a real one does, carries out jobs at once,
//! and can be told to lose answers or to hold the registry back.

mod jobs;
mod script;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flotilla_shared::client::Cluster;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, NodeId, PlacementId, RequestId};
use flotilla_shared::measure::Measured;
use flotilla_shared::moves::MoveAnswer;
use flotilla_shared::registry::{HOME, MetaCommand, NodeInfo, Registry, ReplicaInfo, SlotSet};
use flotilla_shared::rpc::{self, Reply, Session};
use flotilla_shared::sqlite;
use flotilla_shared::value::Value;
use flotilla_shared::wire::{
    Envelope, Identity, NodeStatus, Read, Request, Response, Route, Rows, Statement, StatementResult, Write,
    WriteResult,
};
use rusqlite::Connection;
use tokio::net::TcpListener;
use tokio::sync::watch;

struct Shard {
    db: Connection,
    epochs: BTreeMap<PlacementId, (Epoch, SlotSet)>,
    done: HashMap<RequestId, WriteResult>,
}

struct State {
    registry: Registry,
    /// What proxies get to see: the registry, or an older one while it is held back.
    shown: Registry,
    hold: bool,
    shards: BTreeMap<GroupId, Shard>,
    /// Answers of writes to lose, after that many that are not.
    lose: u32,
    lose_after: u32,
    /// The write request to hold back, counted down to it.
    hold_write: Option<u32>,
    applied: u64,
    /// The time of the registry's entries.
    at_us: i64,
    /// Rows of streams that were not pulled yet.
    streams: HashMap<RequestId, Vec<Vec<Value>>>,
    /// The times that reads brought with them.
    times: Vec<Option<i64>>,
}

/// Rows of one piece of a stream.
pub const PIECE_ROWS: usize = 10;

/// The node.
pub struct FakeNode {
    state: Mutex<State>,
    shown: watch::Sender<u64>,
    /// Is a write being held back?
    held: watch::Sender<bool>,
    _stop: watch::Sender<bool>,
}

impl FakeNode {
    /// Starts a node with that many shards, and a client for it.
    pub async fn start(shards: u32) -> (Arc<Self>, Arc<Cluster>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let mut registry = Registry::default();
        let info = NodeInfo {
            instance: 1,
            raft_addr: addr.clone(),
            http_addr: "127.0.0.1:1".into(),
            zone: None,
            removed: false,
        };
        let replica =
            |group| ReplicaInfo { node: NodeId(1), replica: flotilla_shared::ids::ReplicaId(group + 1), votes: true };
        let groups = (0..=shards).map(|group| (GroupId(group), vec![replica(u64::from(group))])).collect();
        registry.apply(0, MetaCommand::Bootstrap { cluster: 9, nodes: vec![(NodeId(1), info)], groups }).unwrap();
        let shard = |_| Shard { db: sqlite::open_in_memory().unwrap(), epochs: BTreeMap::new(), done: HashMap::new() };
        let mut shards: BTreeMap<GroupId, Shard> = (1..=shards).map(|n| (GroupId(n), shard(n))).collect();
        shards.get_mut(&GroupId(1)).unwrap().epochs.insert(HOME, (Epoch(1), SlotSet::all(1)));
        let (stop, stopped) = watch::channel(false);
        let node = Arc::new(Self {
            shown: watch::channel(registry.version).0,
            state: Mutex::new(State {
                shown: registry.clone(),
                registry,
                hold: false,
                shards,
                lose: 0,
                lose_after: 0,
                hold_write: None,
                applied: 0,
                at_us: 0,
                times: vec![],
                streams: HashMap::new(),
            }),
            held: watch::channel(false).0,
            _stop: stop,
        });
        let serving = Arc::clone(&node);
        tokio::spawn(rpc::serve(listener, move || Serving(Arc::clone(&serving)), stopped));
        let cluster = Cluster::new(vec![addr]);
        tokio::spawn(Arc::clone(&cluster).follow());
        (node, cluster)
    }

    /// Loses the answers of the next `count` writes, after applying them.
    pub fn lose_answers(&self, count: u32) {
        self.lose_answers_after(0, count);
    }

    /// The same, but answers `skip` writes first.
    pub fn lose_answers_after(&self, skip: u32, count: u32) {
        let mut state = self.state.lock().unwrap();
        (state.lose_after, state.lose) = (skip, count);
    }

    /// Holds back one write, before it is applied, after letting `skip` others through.
    pub fn hold_write_after(&self, skip: u32) {
        self.state.lock().unwrap().hold_write = Some(skip);
    }

    /// Holds back none.
    pub fn hold_no_write(&self) {
        self.state.lock().unwrap().hold_write = None;
    }

    /// Waits until a write is being held back.
    pub async fn until_held(&self) {
        self.held.subscribe().wait_for(|held| *held).await.unwrap();
    }

    /// Lets it go on.
    pub fn release_write(&self) {
        self.held.send_replace(false);
    }

    /// Writes applied, not counting those that were remembered.
    pub fn applied(&self) -> u64 {
        self.state.lock().unwrap().applied
    }

    /// Lets time pass until shards have forgotten all writes.
    pub fn forget_writes(&self) {
        let mut state = self.state.lock().unwrap();
        state.at_us += 600_000_000;
        state.shards.values_mut().for_each(|shard| shard.done.clear());
    }

    /// Shows proxies no newer registry until released.
    pub fn hold_registry(&self, hold: bool) {
        let mut state = self.state.lock().unwrap();
        state.hold = hold;
        self.show(&mut state);
    }

    /// Gives the slots of `from` to `to`, rows and remembered requests included, as a finished move would.
    pub fn move_all(&self, table: &str, from: u32, to: u32) {
        let slots = {
            let state = self.state.lock().unwrap();
            state.registry.placement_of(table).unwrap().owned[&GroupId(from)].clone()
        };
        self.move_slots(table, from, to, &slots, "true");
    }

    /// The same for the slots of some rows of a table whose key is the integer `id`.
    pub fn move_ids(&self, table: &str, from: u32, to: u32, ids: &[i64]) {
        let slots: SlotSet = {
            let state = self.state.lock().unwrap();
            let placement = state.registry.placement_of(table).unwrap();
            ids.iter().map(|id| placement.slot(&[Value::Integer(*id)]).unwrap()).collect()
        };
        let list: Vec<String> = ids.iter().map(i64::to_string).collect();
        self.move_slots(table, from, to, &slots, &format!("id IN ({})", list.join(",")));
    }

    /// The same for some slots, with the rows that meet a condition.
    pub fn move_slots(&self, table: &str, from: u32, to: u32, slots: &SlotSet, condition: &str) {
        let mut state = self.state.lock().unwrap();
        let (from, to) = (GroupId(from), GroupId(to));
        let placement = state.registry.table(table).unwrap().placement;
        let mut map = state.registry.placements[&placement].clone();
        let select = Statement::bare(format!("SELECT * FROM {table} WHERE {condition}"));
        let rows = rows(&state.shards[&from].db, &select).unwrap();
        let marks = vec!["?"; rows.columns.len()].join(",");
        for row in rows.values {
            let sql = format!("INSERT INTO {table} VALUES ({marks})");
            state.shards[&to].db.execute(&sql, rusqlite::params_from_iter(row)).unwrap();
        }
        state.shards[&from].db.execute(&format!("DELETE FROM {table} WHERE {condition}"), []).unwrap();
        let done = state.shards[&from].done.clone();
        let known = &mut state.shards.get_mut(&to).unwrap().done;
        for (id, result) in done {
            // As `Requests::adopt` of a node does it.
            if known.get(&id).is_none_or(|known| *known == Ok(vec![])) {
                known.insert(id, result);
            }
        }
        let left = map.owned[&from].minus(slots);
        let more = map.owned.get(&to).cloned().unwrap_or_default().union(slots);
        for (shard, owned) in [(from, left), (to, more)] {
            let epoch = Epoch(map.epoch(shard).0 + 1);
            map.owned.insert(shard, owned.clone());
            map.epochs.insert(shard, epoch);
            state.shards.get_mut(&shard).unwrap().epochs.insert(placement, (epoch, owned));
        }
        state.registry.placements.insert(placement, map);
        state.registry.version += 1;
        self.show(&mut state);
    }

    /// Takes a shard that owns nothing out of the cluster.
    pub fn remove_shard(&self, shard: u32) {
        let mut state = self.state.lock().unwrap();
        state.registry.groups.remove(&GroupId(shard));
        for placement in state.registry.placements.values_mut() {
            placement.shards.retain(|other| *other != GroupId(shard));
        }
        state.registry.version += 1;
        self.show(&mut state);
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.state.lock().unwrap().streams.len()
    }

    /// The times that reads brought with them since this was last asked.
    pub fn take_times(&self) -> Vec<Option<i64>> {
        std::mem::take(&mut self.state.lock().unwrap().times)
    }

    /// Ends all streams.
    pub fn lose_streams(&self) {
        self.state.lock().unwrap().streams.clear();
    }

    /// Rows of a query on one shard, as JSON text.
    pub fn on_shard(&self, shard: u32, sql: &str) -> String {
        let state = self.state.lock().unwrap();
        let rows = rows(&state.shards[&GroupId(shard)].db, &Statement::bare(sql)).unwrap();
        let json: Vec<Vec<_>> = rows.values.iter().map(|row| row.iter().map(|v| v.to_json()).collect()).collect();
        serde_json::json!(json).to_string()
    }

    fn show(&self, state: &mut State) {
        if !state.hold {
            state.shown = state.registry.clone();
            self.shown.send_replace(state.shown.version);
        }
    }

    fn holds_this(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let holds = state.hold_write == Some(0);
        state.hold_write = state.hold_write.and_then(|skip| skip.checked_sub(1));
        if holds {
            self.held.send_replace(true);
        }
        holds
    }

    async fn answer(&self, request: Request) -> Option<Result<Response, Error>> {
        if let Request::Watch { since, wait_ms, .. } = request {
            let mut changes = self.shown.subscribe();
            let newer = changes.wait_for(|version| *version > since);
            tokio::time::timeout(std::time::Duration::from_millis(wait_ms), newer).await.ok();
            let shown = self.state.lock().unwrap().shown.clone();
            return Some(Ok(Response::Registry((shown.version > since).then(|| Box::new(shown)))));
        }
        if matches!(request, Request::Write { .. }) && self.holds_this() {
            self.held.subscribe().wait_for(|held| !*held).await.ok();
        }
        let mut state = self.state.lock().unwrap();
        let answer = match request {
            Request::Write { group, writes } => {
                let results = writes.into_iter().map(|write| state.write(group, write)).collect();
                if state.lose_after > 0 {
                    state.lose_after -= 1;
                } else if state.lose > 0 {
                    state.lose -= 1;
                    return None;
                }
                Ok(Response::Writes(results))
            }
            Request::Read { group, read } => state.read(group, &read, None).map(Response::Rows),
            Request::ReadAt { group, read, at_us, stream: None } => {
                state.read(group, &read, Some(at_us)).map(Response::Rows)
            }
            Request::ReadAt { group, read, at_us, stream: Some((stream, _)) } => {
                state.open(group, &read, Some(at_us), stream)
            }
            Request::Open { group, read, stream, .. } => state.open(group, &read, None, stream),
            Request::Pull(stream) => state.piece(stream),
            Request::Close(stream) => {
                state.streams.remove(&stream);
                Ok(Response::Ok)
            }
            Request::Meta(command) => state.meta(command).map(Response::Meta),
            // Moves are tested with real nodes; here no slot holds anything.
            Request::Moves { .. } => Ok(Response::Moves(MoveAnswer::Measured(Measured::default()))),
            Request::HandOver { to, .. } => Ok(Response::Leader(to.unwrap_or(NodeId(1)))),
            Request::Status => Ok(Response::Status(NodeStatus {
                identity: Identity {
                    node: NodeId(1),
                    instance: 1,
                    cluster: 9,
                    raft_addr: String::new(),
                    http_addr: String::new(),
                    zone: None,
                    groups: vec![],
                },
                replicas: vec![],
                stopping: false,
                balancer: None,
            })),
            other => Err(Error::new(Code::Internal, format!("not faked: {other:?}"))),
        };
        self.show(&mut state);
        Some(answer)
    }
}

struct Serving(Arc<FakeNode>);

impl Session for Serving {
    fn handle(&mut self, _: u8, payload: Bytes, reply: Reply) {
        let node = Arc::clone(&self.0);
        tokio::spawn(async move {
            let envelope: Envelope = postcard::from_bytes(&payload).unwrap();
            if let Some(answer) = node.answer(envelope.request).await {
                reply.send(Bytes::from(postcard::to_stdvec(&answer).unwrap())).await;
            }
        });
    }
}

impl State {
    fn read(&mut self, group: GroupId, read: &Read, at_us: Option<i64>) -> Result<Rows, Error> {
        self.times.push(at_us);
        self.check(group, read.route.as_ref())?;
        rows(&self.shards[&group].db, &read.statement)
    }

    fn open(&mut self, group: GroupId, read: &Read, at_us: Option<i64>, stream: RequestId) -> Result<Response, Error> {
        let rows = self.read(group, read, at_us)?;
        self.streams.insert(stream, rows.values);
        self.piece(stream)
    }

    fn piece(&mut self, stream: RequestId) -> Result<Response, Error> {
        let rest = self.streams.get_mut(&stream).ok_or_else(|| Error::new(Code::Timeout, "not open"))?;
        let values: Vec<_> = rest.drain(..PIECE_ROWS.min(rest.len())).collect();
        let more = !rest.is_empty();
        if !more {
            self.streams.remove(&stream);
        }
        Ok(Response::Piece { node: NodeId(1), values, more })
    }

    fn check(&self, group: GroupId, route: Option<&Route>) -> Result<(), Error> {
        let Some(route) = route else { return Ok(()) };
        let stale = || Err(Error::new(Code::StaleRoute, "stale"));
        if route.schema < self.registry.schema_version {
            return stale();
        }
        for claim in &route.claims {
            let Some((epoch, owned)) = self.shards[&group].epochs.get(&claim.placement) else { return stale() };
            let holds = match &claim.slots {
                None => *epoch == claim.epoch,
                Some(slots) => {
                    slots.ranges().iter().all(|range| owned.contains(range.first) && owned.contains(range.last))
                }
            };
            if !holds {
                return stale();
            }
        }
        Ok(())
    }

    fn write(&mut self, group: GroupId, write: Write) -> WriteResult {
        if let Some(done) = self.shards[&group].done.get(&write.id) {
            return done.clone();
        }
        self.check(group, write.route.as_ref())?;
        self.applied += 1;
        let shard = self.shards.get_mut(&group).unwrap();
        shard.db.execute_batch("SAVEPOINT one").unwrap();
        let result: WriteResult = write.statements.iter().map(|statement| run(&shard.db, statement)).collect();
        // A foreign key may still be violated.
        let released = result.is_ok().then(|| shard.db.execute_batch("RELEASE one"));
        let result = match released {
            Some(Err(error)) => Err(Error::from_sqlite(&error)),
            _ => result,
        };
        if result.is_err() {
            shard.db.execute_batch("ROLLBACK TO one; RELEASE one").unwrap();
        }
        shard.done.insert(write.id, result.clone());
        result
    }
}

fn rows(db: &Connection, statement: &Statement) -> Result<Rows, Error> {
    run(db, statement).map(|result| result.rows.unwrap_or_default())
}

fn run(db: &Connection, statement: &Statement) -> Result<StatementResult, Error> {
    let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
    let mut prepared = db.prepare(&statement.sql).map_err(sqlite)?;
    statement.params.bind(&mut prepared)?;
    let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
    let mut values = Vec::new();
    let mut found = prepared.raw_query();
    while let Some(row) = found.next().map_err(sqlite)? {
        values.push(
            (0..columns.len()).map(|i| row.get_ref(i).map(Into::into)).collect::<Result<_, _>>().map_err(sqlite)?,
        );
    }
    drop(found);
    let rows = (!columns.is_empty()).then(|| Rows { types: vec![String::new(); columns.len()], columns, values });
    let rows_affected = if prepared.readonly() { 0 } else { db.changes() };
    Ok(StatementResult { last_insert_id: db.last_insert_rowid(), rows_affected, rows })
}

//! The files of a group: snapshots by pages, generations, crashes between any two steps, checkpoints.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::generations::wal_path;
use super::super::store::Executor;
use super::*;

const TABLE: &[&str] = &["CREATE TABLE t (id INTEGER PRIMARY KEY, v)"];

fn insert(log: &mut Log, rows: usize) -> Entry {
    log.writes(&[&format!(
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {rows})
         INSERT INTO t (v) SELECT randomblob(1000) FROM c"
    )])
}

/// Pages are streamed while writes go on: the follower gets the state of the moment when the transfer
/// began, catches up by entries, and then is equal.
#[test]
fn snapshot_beside_writes() {
    let (leader, mut log) = with_schema(TABLE);
    leader.apply(&[insert(&mut log, 3000)]);
    let mut outgoing = Outgoing::open(leader.handle().store()).unwrap();
    let follower = Replica::new();
    let mut incoming = Incoming::create(follower.folder.path(), 1).unwrap();
    let (mut later, mut chunks) = (vec![], 0);
    while let Some(chunk) = outgoing.next_chunk().unwrap() {
        incoming.write(&chunk).unwrap();
        let entry = insert(&mut log, 100);
        leader.apply(std::slice::from_ref(&entry));
        later.push(entry);
        later.push(log.writes(&["DELETE FROM t WHERE id % 3 = 0"]));
        leader.apply(&later[later.len() - 1..]);
        leader.handle().store().make_durable().unwrap();
        chunks += 1;
    }
    assert!(chunks > 10);
    let file = incoming.finish(outgoing.digest()).unwrap();
    follower.handle().install(&file, &meta_of(&outgoing.applied)).unwrap();
    assert_eq!(follower.applied(), 2);
    assert_eq!(follower.count("t"), Value::Integer(3000));
    assert_ne!(follower.hash(), leader.hash());
    follower.apply(&later);
    assert_eq!(follower.hash(), leader.hash());
}

/// A follower that had other content has only the leader's after a snapshot, and still after a restart;
/// reads that began before go on with what they saw.
#[test]
fn snapshot_replaces_everything() {
    let (leader, mut log) = with_schema(TABLE);
    leader.apply(&[insert(&mut log, 10)]);
    let (mut follower, mut other) = with_schema(&["CREATE TABLE old (v)"]);
    follower.apply(&[other.writes(&["INSERT INTO old VALUES (1)"])]);
    let before = follower.handle().store().readers();
    before
        .inspect(|db| {
            db.execute_batch("BEGIN")?;
            let count = || db.query_row("SELECT count(*) FROM old", [], |row| row.get::<_, i64>(0));
            assert_eq!(count()?, 1);
            for _ in 0..3 {
                follower.take_snapshot_of(&leader);
                assert_eq!(count()?, 1);
            }
            db.execute_batch("ROLLBACK")
        })
        .unwrap();
    for _ in 0..2 {
        assert_eq!(follower.hash(), leader.hash());
        assert!(follower.read(&select("SELECT * FROM old")).is_err());
        assert_eq!(follower.count("t"), Value::Integer(10));
        follower.reopen();
    }
    let files = fs::read_dir(follower.folder.path()).unwrap();
    let databases: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".db"))
        .collect();
    assert_eq!(databases, ["gen-4.db"]);
}

/// A chunk that was damaged, lost, doubled or put out of order on the way is noticed, and its file goes.
#[test]
fn damaged_chunks() {
    let (leader, mut log) = with_schema(TABLE);
    leader.apply(&[insert(&mut log, 1000)]);
    let mut outgoing = Outgoing::open(leader.handle().store()).unwrap();
    let mut chunks = vec![];
    while let Some(chunk) = outgoing.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    assert!(chunks.len() > 2);
    let damage: [fn(&mut Vec<Vec<u8>>); 5] = [
        |chunks| chunks[1][1000] ^= 1,
        |chunks| drop(chunks.remove(1)),
        |chunks| chunks.insert(1, chunks[1].clone()),
        |chunks| chunks.swap(0, 1),
        |chunks| chunks[0].truncate(4096),
    ];
    let folder = tempfile::tempdir().unwrap();
    for change in damage {
        let mut chunks = chunks.clone();
        change(&mut chunks);
        let mut incoming = Incoming::create(folder.path(), 1).unwrap();
        chunks.iter().for_each(|chunk| incoming.write(chunk).unwrap());
        assert!(incoming.finish(outgoing.digest()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// A file that holds less than it is said to hold is not installed.
#[test]
fn snapshots_that_hold_less() {
    let (leader, mut log) = with_schema(TABLE);
    leader.apply(&[insert(&mut log, 1)]);
    let mut outgoing = Outgoing::open(leader.handle().store()).unwrap();
    leader.apply(&[insert(&mut log, 1)]);
    let (follower, _) = with_schema(&["CREATE TABLE old (v)"]);
    let file = receive(follower.folder.path(), &mut outgoing);
    let later = leader.handle().store().make_durable().unwrap();
    assert!(follower.handle().install(&file, &meta_of(&later)).is_err());
    assert_eq!(follower.count("old"), Value::Integer(0));
    follower.handle().install(&file, &meta_of(&outgoing.applied)).unwrap();
    assert_eq!(follower.count("t"), Value::Integer(1));
}

/// Transfers that ended early and generations that are not in use are removed at the next start.
#[test]
fn leftovers() {
    let (mut replica, _) = with_schema(TABLE);
    let folder = replica.folder.path().to_owned();
    for name in ["incoming-00ff.db", "incoming-00ff.db-wal", "gen-7.db", "gen-7.db-shm", "gen-10.db", "CURRENT.new"] {
        fs::write(folder.join(name), "left over").unwrap();
    }
    replica.reopen();
    assert_eq!(replica.count("t"), Value::Integer(0));
    replica.handle = None;
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with("gen-1.db-") && name != "CURRENT.new");
    names.sort();
    assert_eq!(names, ["CURRENT", "gen-1.db"]);
}

/// Whatever step of taking over a snapshot a crash falls on, the next start finds the old state or the
/// new one, and can go on.
#[test]
fn crashes_while_replacing() {
    let (leader, mut log) = with_schema(TABLE);
    leader.apply(&[insert(&mut log, 20)]);
    let (follower, mut other) = with_schema(&["CREATE TABLE old (v)"]);
    follower.apply(&[other.writes(&["INSERT INTO old VALUES (1)"])]);
    let mut outgoing = Outgoing::open(leader.handle().store()).unwrap();
    let file = receive(follower.folder.path(), &mut outgoing);
    let folder = follower.folder.path();
    let crashes = tempfile::tempdir().unwrap();
    let crash = |name: &str| {
        let copy = crashes.path().join(name);
        copy_folder(folder, &copy);
        copy
    };
    // The steps of Store::replace, one by one.
    let mut states = vec![(crash("received"), false)];
    fs::rename(&file, folder.join("gen-2.db")).unwrap();
    states.push((crash("renamed"), false));
    fs::write(folder.join("CURRENT.new"), "2\n").unwrap();
    states.push((crash("written"), false));
    fs::rename(folder.join("CURRENT.new"), folder.join("CURRENT")).unwrap();
    states.push((crash("current"), true));
    fs::remove_file(folder.join("gen-1.db")).unwrap();
    states.push((crash("removed"), true));
    for (folder, new) in states {
        for round in 0..2 {
            let handle = open(&folder, SHARD);
            let hash = handle.content_hash().unwrap().1;
            assert_eq!(hash, if new { leader.hash() } else { follower.hash() }, "{} {round}", folder.display());
        }
        let handle = open(&folder, SHARD);
        let entry = if new { insert(&mut log, 5) } else { other.writes(&["INSERT INTO old VALUES (2)"]) };
        let outcomes = handle.lock().apply(&[entry]).unwrap();
        assert!(only(&outcomes).is_ok());
    }
}

/// `CURRENT` and the files must agree: a lost one is a named error, never an empty database.
#[test]
fn contradictions_are_named() {
    let (leader, mut log) = with_schema(TABLE);
    leader.apply(&[insert(&mut log, 1)]);
    let mut replica = Replica::new();
    replica.take_snapshot_of(&leader);
    replica.handle = None;
    let folder = replica.folder.path();
    let start = || Store::open(folder, Arc::new(Inline), 1).map(drop).unwrap_err().to_string();
    fs::rename(folder.join("CURRENT"), folder.join("aside")).unwrap();
    assert!(start().contains("no CURRENT"), "{}", start());
    fs::write(folder.join("CURRENT"), "two").unwrap();
    assert!(start().contains("damaged"), "{}", start());
    fs::write(folder.join("CURRENT"), "3").unwrap();
    assert!(start().contains("missing"), "{}", start());
    fs::rename(folder.join("aside"), folder.join("CURRENT")).unwrap();
    assert_eq!(open(folder, SHARD).content_hash().unwrap().1, leader.hash());
    // A first start that crashed before it wrote CURRENT is no contradiction.
    let fresh = Replica::new();
    fs::remove_file(fresh.folder.path().join("CURRENT")).unwrap();
    assert_eq!(open(fresh.folder.path(), SHARD).content_hash().unwrap().1, fresh.hash());
}

/// What was made durable is there when the files are lost as of that moment, though later entries are
/// not; the log brings those again.
#[test]
fn durable_state() {
    let (replica, mut log) = with_schema(TABLE);
    let store = replica.handle().store();
    replica.apply(&[insert(&mut log, 50)]);
    let durable = store.make_durable().unwrap();
    assert_eq!(store.durable(), durable);
    let crash = tempfile::tempdir().unwrap();
    copy_folder(replica.folder.path(), crash.path());
    let last = insert(&mut log, 50);
    replica.apply(std::slice::from_ref(&last));
    assert_eq!(store.durable().log_id.unwrap().index, 2);
    // Without its WAL's last frames: as if they had not reached the disk.
    let restarted = open(crash.path(), SHARD);
    assert_eq!(restarted.lock().applied, durable);
    restarted.lock().apply(&[last]).unwrap();
    assert_eq!(restarted.content_hash().unwrap().1, replica.hash());
}

/// An executor that runs work in threads, as a node does.
#[derive(Default)]
struct Threads(Mutex<Vec<std::thread::JoinHandle<()>>>);

impl Executor for Threads {
    fn block(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn spawn(&self, work: Box<dyn FnOnce() + Send>) {
        self.0.lock().unwrap().push(std::thread::spawn(work));
    }
}

/// With writes and reads that never pause, the WAL starts over now and then. How soon depends on how
/// fast the disk is; that it does, does not.
#[test]
fn the_wal_does_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let (store, db) = Store::open(folder.path(), Arc::new(Threads::default()), 2).unwrap();
    let handle = StateHandle::open(Arc::clone(&store), db, SHARD).unwrap();
    let (mut log, stop) = (Log::new(), AtomicBool::new(false));
    handle.lock().apply(&[log.schema(1, TABLE)]).unwrap();
    const ROUNDS: u32 = 1000;
    const ENOUGH: u32 = 2;
    let mut shrank = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.readers().read(&select("SELECT sum(id) FROM t"), Duration::from_secs(5)).unwrap();
            }
        });
        let mut before = 0;
        for round in 0..ROUNDS {
            if shrank == ENOUGH {
                break;
            }
            let machine = &mut handle.lock();
            store.restart_wal(machine.db()).unwrap();
            // The same rows again and again: the database stays small, the WAL takes 2 MB each time.
            let entry = match round {
                0 => insert(&mut log, 500),
                _ => log.writes(&["UPDATE t SET v = randomblob(4000)"]),
            };
            machine.apply(&[entry]).unwrap();
            store.check_wal();
            let now = store.wal_bytes();
            let file_bytes = fs::metadata(wal_path(&store.path())).unwrap().len();
            assert!(now <= file_bytes, "{now} of {file_bytes} bytes are in use");
            shrank += u32::from(now < before);
            before = now;
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(shrank, ENOUGH, "after {ROUNDS} rounds of about 2 MB");
}

/// A reader that stays keeps the WAL from starting over, and what it keeps is not forgotten; the WAL starts over soon
/// after it has gone.
#[test]
fn a_reader_keeps_the_wal() {
    let folder = tempfile::tempdir().unwrap();
    let (store, db) = Store::open(folder.path(), Arc::new(Inline), 1).unwrap();
    let handle = StateHandle::open(Arc::clone(&store), db, SHARD).unwrap();
    let mut log = Log::new();
    let entries = [log.schema(1, TABLE), insert(&mut log, 500)];
    handle.lock().apply(&entries).unwrap();
    let reader = rusqlite::Connection::open(store.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    // About 2 MB each.
    let mut round = || {
        let (machine, before) = (&mut handle.lock(), store.wal_bytes());
        store.restart_wal(machine.db()).unwrap();
        let started_over = store.wal_bytes() < before;
        machine.apply(&[log.writes(&["UPDATE t SET v = randomblob(4000)"])]).unwrap();
        store.check_wal();
        started_over
    };
    assert!(!(0..50).any(|_| round()), "the reader is still there");
    drop(reader);
    assert!((0..10).any(|_| round()), "{} bytes", store.wal_bytes());
}

/// Another process that opens the database and closes it again while a checkpoint has run does not take
/// it for abandoned: it would delete the WAL that is in use.
#[test]
#[cfg(target_os = "linux")]
fn other_processes() {
    const CHILD: &str = "FLOTILLA_TEST_DATABASE";
    if let Ok(path) = std::env::var(CHILD) {
        let db = rusqlite::Connection::open(path).unwrap();
        let count: i64 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 2);
        return;
    }
    let (mut replica, mut log) = with_schema(TABLE);
    replica.apply(&[insert(&mut log, 1)]);
    replica.handle().store().make_durable().unwrap();
    replica.apply(&[insert(&mut log, 1)]);
    let wal = wal_path(&replica.handle().store().path());
    let length = fs::metadata(&wal).unwrap().len();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "state::tests::files::other_processes"])
        .env(CHILD, replica.handle().store().path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{child:?}");
    assert_eq!(fs::metadata(&wal).map(|wal| wal.len()).unwrap_or(0), length, "the WAL is gone");
    replica.apply(&[insert(&mut log, 1)]);
    let hash = replica.hash();
    replica.reopen();
    assert_eq!((replica.hash(), replica.count("t")), (hash, Value::Integer(3)));
}

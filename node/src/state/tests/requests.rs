//! How long requests are remembered: a matter of entries, never of batches.

use super::super::requests::{MAX_KEPT_BYTES, MAX_REQUESTS, MAX_STEP_US, Requests, WINDOW_US};
use super::*;
use flotilla_shared::ids::Slot;

fn result(n: i64) -> WriteResult {
    Ok(vec![StatementResult { last_insert_id: n, rows_affected: 1, rows: None }])
}

fn large(bytes: usize) -> WriteResult {
    let values = vec![vec![Value::Text("x".repeat(bytes))]];
    let rows = Some(Rows { columns: vec!["b".into()], types: vec!["".into()], values });
    Ok(vec![StatementResult { last_insert_id: 0, rows_affected: 1, rows }])
}

fn database() -> rusqlite::Connection {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch(
        "CREATE TABLE _flotilla_requests (first_seq INTEGER PRIMARY KEY, last_seq INTEGER, body BLOB);
         CREATE TABLE _flotilla_request_slots (seq INTEGER, touched BLOB, PRIMARY KEY (seq, touched)) WITHOUT ROWID",
    )
    .unwrap();
    db
}

fn digest(requests: &Requests) -> Vec<u8> {
    let mut all = vec![];
    requests.digest(|bytes| all.extend_from_slice(bytes));
    all
}

/// An id is forgotten when its time is over, and applied anew, even within the batch that brought it.
#[test]
fn window() {
    let ids: Vec<RequestId> = (1..=4).map(RequestId).collect();
    // Each entry: its time, and the id that it applies unless it is known.
    let entries =
        [(0, ids[0]), (1, ids[1]), (WINDOW_US, ids[0]), (WINDOW_US + 1, ids[0]), (WINDOW_US + 2, ids[1]), (9, ids[2])];
    let run = |borders: &[usize]| {
        let (db, mut requests, mut first) = (database(), Requests::default(), vec![]);
        for (number, (at_us, id)) in entries.iter().enumerate() {
            requests.expire(*at_us);
            first.push(requests.find(*id));
            if requests.find(*id).is_none() {
                requests.remember(*id, *at_us, &result(number as i64));
            }
            if borders.contains(&number) {
                requests.write(&db).unwrap();
                requests.settle();
                let first = requests.first();
                let loaded = Requests::load(&db, first).unwrap();
                assert_eq!(digest(&loaded), digest(&requests));
                requests = loaded;
            }
        }
        requests.write(&db).unwrap();
        requests.settle();
        (first, requests.first(), digest(&requests))
    };
    let apart = run(&[0, 1, 2, 3, 4]);
    assert_eq!(apart.0, [None, None, Some(result(0)), None, None, None]);
    for borders in [&[][..], &[0], &[1], &[2], &[3], &[0, 3], &[1, 4]] {
        assert_eq!(run(borders), apart, "{borders:?}");
    }
}

/// A batch that is given up leaves everything as it was, also what it had displaced.
#[test]
fn abandoned_batches() {
    let (db, mut requests) = (database(), Requests::default());
    for n in 1..=3 {
        requests.remember(RequestId(n), n as i64, &large(100));
    }
    requests.write(&db).unwrap();
    requests.settle();
    let before = digest(&requests);
    for at_us in [WINDOW_US + 2, 2 * WINDOW_US + 5, 3 * WINDOW_US + 9] {
        requests.expire(at_us);
        assert_eq!(requests.find(RequestId(1)), None);
        requests.remember(RequestId(1), at_us, &result(9));
    }
    requests.abandon();
    assert_eq!(digest(&requests), before);
    assert_eq!(requests.first(), 0);
    assert_eq!(requests.find(RequestId(1)), Some(large(100)));
    assert_eq!(requests.len(), 3);
}

/// No more ids are remembered than the bound says, and rows that no longer count are deleted.
#[test]
fn count() {
    let (db, mut requests) = (database(), Requests::default());
    let all = MAX_REQUESTS as u128 + 10;
    for n in 0..all {
        requests.expire(0);
        requests.remember(RequestId(n), 0, &result(1));
        if n % 10_000 == 0 || n == all - 1 {
            requests.write(&db).unwrap();
            requests.settle();
        }
    }
    requests.expire(0);
    requests.write(&db).unwrap();
    requests.settle();
    assert_eq!(requests.len(), MAX_REQUESTS);
    assert_eq!(requests.find(RequestId(9)), None);
    assert!(requests.find(RequestId(10)).is_some());
    let oldest: i64 = db.query_row("SELECT min(last_seq) FROM _flotilla_requests", [], |row| row.get(0)).unwrap();
    assert_eq!(oldest, 10_000);
}

/// Kept results are bounded in bytes together: beyond, ids are remembered without their rows, and a
/// batch of large results is written in rows that SQLite takes.
#[test]
fn bytes() {
    let (db, mut requests) = (database(), Requests::default());
    db.set_limit(rusqlite::limits::Limit::SQLITE_LIMIT_LENGTH, 16 << 20).unwrap();
    let each = 60 << 10;
    let fit = MAX_KEPT_BYTES / each;
    for n in 0..fit as u128 + 100 {
        requests.remember(RequestId(n), 0, &large(each));
    }
    requests.write(&db).unwrap();
    requests.settle();
    let loaded = Requests::load(&db, 0).unwrap();
    assert_eq!(digest(&loaded), digest(&requests));
    assert_eq!(loaded.find(RequestId(0)), Some(large(each)));
    assert_eq!(code(&loaded.find(RequestId(fit as u128 + 50)).unwrap()), Code::ResultForgotten);
    requests.expire(WINDOW_US + 1);
    requests.remember(RequestId(0), 0, &large(each));
    assert_eq!(requests.find(RequestId(0)), Some(large(each)), "there is room again");
}

/// A write without statements is remembered as what it is when not a byte is left for results, whether it was applied
/// here or came with slots; so a retry never hears that the write which it stands for was applied.
#[test]
fn a_fence_is_kept_when_results_are_full() {
    let mut requests = Requests::default();
    let mut next = 0u128;
    // From the largest size down: each size is taken as long as it fits.
    for bytes in [60 << 10, 30 << 10, 15 << 10, 4 << 10, 1 << 10, 256, 64, 16, 4, 1, 0] {
        while {
            next += 1;
            requests.remember(RequestId(next), 0, &large(bytes));
            requests.find(RequestId(next)) == Some(large(bytes))
        } {}
    }
    // The rest by errors, which are shorter than any rows.
    let refusal = |bytes: usize| -> WriteResult { Err(Error::new(Code::Constraint, "x".repeat(bytes))) };
    for bytes in (0..32).rev() {
        next += 1;
        requests.remember(RequestId(next), 0, &refusal(bytes));
    }
    let fence: WriteResult = Ok(vec![]);
    requests.remember(RequestId(u128::MAX), 0, &fence);
    assert_eq!(requests.find(RequestId(u128::MAX)), Some(fence.clone()));
    let slots = SlotSet::all(4);
    let placement = PlacementId(2);
    let route = Route { schema: SchemaVersion(0), claims: vec![Claim { placement, epoch: Epoch(1), slots: None }] };
    let mut source = Requests::default();
    source.remember_for(Some(&route), RequestId(u128::MAX - 1), 0, &fence);
    requests.adopt(0, &source.of_slots(placement, &slots, 0, usize::MAX).0).unwrap();
    assert_eq!(requests.find(RequestId(u128::MAX - 1)), Some(fence));
}

/// A leader whose clock jumps ahead, by an hour at a time, does not make the group forget what it
/// applied: ids grow old by a second an entry at most, and so are forgotten in the end.
#[test]
fn clock_jumps() {
    const HOUR_US: i64 = 3_600_000_000;
    let (replica, mut log) = with_schema(&["CREATE TABLE t (id INTEGER PRIMARY KEY)"]);
    let write = log.write("INSERT INTO t DEFAULT VALUES");
    let mut again = |jump_us: i64| {
        log.at_us += jump_us;
        let outcomes = replica.apply(&[log.entry(Body::Writes(vec![write.clone()]))]);
        results(&outcomes[0])[0].as_ref().unwrap()[0].last_insert_id
    };
    for _ in 0..10 {
        assert_eq!(again(HOUR_US), 1);
    }
    let most = WINDOW_US / MAX_STEP_US + 1;
    assert!((0..most).any(|_| again(0) == 2), "it is forgotten after {most} s");
}

/// Of a result and a write without statements that meet under one id, whichever came first and from
/// wherever, the result stays.
#[test]
fn a_result_outlives_a_fence() {
    let placement = PlacementId(2);
    let slots = SlotSet::all(4);
    let route = Route { schema: SchemaVersion(0), claims: vec![Claim { placement, epoch: Epoch(1), slots: None }] };
    let one = |result: &WriteResult| {
        let mut requests = Requests::default();
        requests.remember_for(Some(&route), RequestId(1), 5, result);
        requests
    };
    let (fence, applied) = (Ok(vec![]), result(7));
    for (here, comes, stays) in [(&fence, &applied, &applied), (&applied, &fence, &applied), (&fence, &fence, &fence)] {
        let mut requests = one(here);
        let (packed, ..) = one(comes).of_slots(placement, &slots, 0, 1 << 20);
        assert_eq!(packed.len(), 1);
        requests.adopt(6, &packed).unwrap();
        assert_eq!(requests.find(RequestId(1)).as_ref(), Some(stays));
    }
}

/// A result that takes the place of a fence is about the fence's slots, too: where these go, the write that the fence
/// kept off must still not take effect.
#[test]
fn a_result_goes_where_its_fence_would() {
    let placement = PlacementId(2);
    let one = |slot: u16, result: &WriteResult| {
        let slots = Some(SlotSet::range(Slot(slot), Slot(slot)));
        let route = Route { schema: SchemaVersion(0), claims: vec![Claim { placement, epoch: Epoch(1), slots }] };
        let mut requests = Requests::default();
        requests.remember_for(Some(&route), RequestId(1), 5, result);
        requests
    };
    let goes = |from: &Requests, slot| from.of_slots(placement, &SlotSet::range(Slot(slot), Slot(slot)), 0, 1 << 20).0;
    let (fence, applied) = (one(1, &Ok(vec![])), one(2, &result(7)));
    for (here, comes, slot) in [(&fence, &applied, 2), (&applied, &fence, 1)] {
        let mut both = Requests::default();
        both.adopt(6, &[goes(here, 1), goes(here, 2)].concat()).unwrap();
        both.adopt(6, &goes(comes, slot)).unwrap();
        for slot in [1, 2] {
            let mut third = Requests::default();
            third.adopt(7, &goes(&both, slot)).unwrap();
            assert_eq!(third.find(RequestId(1)), Some(result(7)), "slot {slot}");
        }
    }
}

/// The id of a write of many slots goes along with each of them, piece by piece; where pieces meet, it is about
/// all of them, also after a restart, and a batch that is given up leaves it as it was.
#[test]
fn pieces_of_a_write_meet_again() {
    let placement = PlacementId(2);
    let set = |slots: &[u16]| -> SlotSet { slots.iter().copied().map(Slot).collect() };
    let claim = Claim { placement, epoch: Epoch(1), slots: Some(set(&[1, 2, 3, 4, 5, 6])) };
    let route = Route { schema: SchemaVersion(0), claims: vec![claim] };
    let (db, mut source, mut target) = (database(), Requests::default(), Requests::default());
    source.remember_for(Some(&route), RequestId(1), 5, &result(7));
    let goes = |from: &Requests, slots: &[u16]| from.of_slots(placement, &set(slots), 0, 1 << 20).0;
    let commit = |requests: &mut Requests| {
        requests.write(&db).unwrap();
        requests.settle();
    };
    target.adopt(6, &goes(&source, &[1, 2, 9])).unwrap();
    assert_eq!((goes(&target, &[2, 9]).len(), goes(&target, &[3, 9]).len()), (1, 0), "only these slots went along");
    commit(&mut target);
    target.adopt(7, &goes(&source, &[3, 4])).unwrap();
    assert_eq!((goes(&target, &[3]).len(), goes(&target, &[1]).len()), (1, 1));
    target.abandon();
    assert_eq!(goes(&target, &[3]).len(), 0, "the batch was given up");
    for slots in [&[3, 4], &[5, 6]] {
        target.adopt(7, &goes(&source, slots)).unwrap();
        commit(&mut target);
    }
    let rows = || db.query_row("SELECT count(*) FROM _flotilla_request_slots", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((target.len(), rows()), (1, 2));
    target.adopt(8, &goes(&source, &[2, 5])).unwrap();
    commit(&mut target);
    assert_eq!(rows(), 2, "what is known already takes no room");
    let loaded = Requests::load(&db, 0).unwrap();
    assert_eq!(digest(&loaded), digest(&target));
    let mut third = Requests::default();
    third.adopt(9, &goes(&loaded, &[4, 6])).unwrap();
    assert_eq!(third.find(RequestId(1)), Some(result(7)));
    target.expire(WINDOW_US * 2);
    commit(&mut target);
    assert_eq!(rows(), 0);
}

/// A write without statements does nothing, and takes its id.
#[test]
fn fences() {
    let (mut replica, mut log) = with_schema(&["CREATE TABLE t (a)"]);
    let fence = Write { id: RequestId(77), route: None, statements: vec![] };
    let late = Write { id: RequestId(77), ..log.write("INSERT INTO t VALUES (1)") };
    for write in [fence, late.clone(), late] {
        let entry = log.entry(Body::Writes(vec![write]));
        assert_eq!(only(&replica.apply(&[entry])), &Ok(vec![]));
        replica.reopen();
    }
    assert_eq!(replica.count("t"), Value::Integer(0));
}

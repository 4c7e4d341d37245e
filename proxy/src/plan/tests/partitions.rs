//! Rows of a schema twice: all in one SQLite, and spread over the databases of shards. A SELECT is planned
//! and carried out on these in process, and must give what the one SQLite gives.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;
use flotilla_shared::registry::{HOME_SHARD, Registry};
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Statement;
use rusqlite::Connection;

use crate::merge::{Bounds, Session};
use crate::mirror::Mirror;
use crate::plan::{Input, Part, Plan, plan};

/// Rows of an answer.
pub type Answer = Vec<Vec<Value>>;

/// What a merge may hold and take here: far more than these rows need.
const BOUNDS: Bounds =
    Bounds { pulled_rows: 1 << 20, pulled_bytes: 1 << 30, result_rows: 1 << 20, result_bytes: 1 << 30 };
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The rows, as one database and as several.
pub struct Partitions {
    /// The schema as the planner sees it.
    pub mirror: Mirror,
    /// Where its rows are.
    pub registry: Arc<Registry>,
    whole: Connection,
    shards: BTreeMap<GroupId, Connection>,
}

impl Partitions {
    /// Empty tables of a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        let open = || {
            let db = flotilla_shared::sqlite::open_in_memory().unwrap();
            registry.objects.iter().for_each(|object| db.execute_batch(&object.sql).unwrap());
            db
        };
        let shards = registry.shards().map(|shard| (shard, open())).collect();
        Self { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), whole: open(), shards, registry }
    }

    /// Inserts rows into a table: into all of its copies, or each where its key belongs.
    pub fn insert(&self, table: &str, rows: &str) {
        let insert = format!("INSERT INTO {table} {rows}");
        self.whole.execute_batch(&insert).unwrap();
        let known = self.registry.table(table.split('(').next().unwrap().trim()).unwrap();
        let placement = &self.registry.placements[&known.placement];
        if known.key.is_empty() {
            let copies = self.shards.iter().filter(|(shard, _)| placement.is_reference() || **shard == HOME_SHARD);
            copies.for_each(|(_, db)| db.execute_batch(&insert).unwrap());
            return;
        }
        let clear = format!("DELETE FROM {}", known.name);
        self.shards.values().for_each(|db| db.execute_batch(&clear).unwrap());
        for row in query(&self.whole, &Statement::bare(format!("SELECT * FROM {}", known.name))).unwrap() {
            let key: Vec<Value> = known.key.iter().map(|index| row[*index].clone()).collect();
            let shard = placement.owner(placement.slot(&key).unwrap()).unwrap();
            let marks = vec!["?"; row.len()].join(", ");
            let insert = format!("INSERT INTO {} VALUES ({marks})", known.name);
            self.shards[&shard].execute(&insert, rusqlite::params_from_iter(&row)).unwrap();
        }
    }

    /// What one SQLite with all rows answers.
    pub fn wanted(&self, sql: &str, args: &[Value]) -> Result<Answer, Error> {
        query(&self.whole, &statement(sql, args))
    }

    /// What the plan of a SELECT gives, and the plan.
    pub fn answer(&self, sql: &str, args: &[Value]) -> Result<(Answer, Plan), Error> {
        let (prepared, _) = self.mirror.prepare(sql)?;
        let statement = statement(sql, args);
        prepared.check_args(&statement.params)?;
        let keys = BTreeMap::new();
        let input = Input {
            mirror: &self.mirror,
            prepared: &prepared,
            params: &statement.params,
            allow_partial: false,
            keys: &keys,
        };
        let plan = plan(input, &self.registry);
        let read = |part: &Part| query(&self.shards[&part.shard], part.statement.as_ref().unwrap_or(&statement));
        let rows = match &plan {
            Plan::One(_) | Plan::Some(_) | Plan::All(_) => {
                plan.parts().iter().map(read).collect::<Result<Vec<_>, _>>()?.concat()
            }
            Plan::Merge(merge) => {
                let mut session = Session::open(&merge.setup, BOUNDS, Instant::now() + TIME_LIMIT)?;
                for pull in &merge.pulls {
                    for part in &pull.parts {
                        session.load(&pull.insert, &read(part)?)?;
                    }
                }
                session.index(&merge.indexes)?;
                session.finish(&merge.finish)?
            }
            Plan::Local => self.mirror.answer(&prepared, &statement.params)?.values,
            Plan::Refused(error) => return Err(error.clone()),
            Plan::Staged(_) | Plan::Copies(_) => return Err(Error::new(Code::Internal, "a SELECT writes")),
        };
        Ok((rows, plan))
    }

    /// Checks that a SELECT gives the same both ways, row by row, and returns its plan.
    pub fn check(&self, sql: &str, args: &[Value]) -> Plan {
        let wanted = self.wanted(sql, args).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (rows, plan) = self.answer(sql, args).unwrap_or_else(|error| panic!("{sql} {args:?}: {error}"));
        assert_eq!(rows, wanted, "{sql} {args:?}\n{plan}");
        plan
    }
}

/// A statement with arguments by place.
pub fn statement(sql: &str, args: &[Value]) -> Statement {
    Statement { sql: sql.to_owned(), params: Params::Positional(args.to_vec()) }
}

/// All rows of a query.
pub fn query(db: &Connection, statement: &Statement) -> Result<Answer, Error> {
    let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
    let mut prepared = db.prepare(&statement.sql).map_err(sqlite)?;
    statement.params.bind(&mut prepared)?;
    let width = prepared.column_count();
    let mut rows = prepared.raw_query();
    let mut answer = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        answer.push((0..width).map(|at| row.get_ref(at).map(Value::from)).collect::<Result<_, _>>().map_err(sqlite)?);
    }
    Ok(answer)
}

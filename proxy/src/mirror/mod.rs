//! The schema mirror: an empty in-memory SQLite with the registry's current schema.
//!
//! Every statement is prepared here once per schema version. SQLite thereby says, in its own words,
//! what is wrong with it, and else what it touches ([`Record`]), its parameters and the names and
//! types of its columns. The result, with its [analysis](crate::analyze), is kept by text
//! ([`cache`]), so a statement that was seen before costs one lookup. Statements about the schema
//! alone are answered here.
//!
//! Input: the [`Registry`]. Output: [`Prepared`]. Refused: what no client may run
//! ([`record`]), with code `forbidden_statement`. A hostile statement is bounded by SQLite's limits
//! and by a deadline in its progress handler, which SQLite also calls while it prepares.

pub mod cache;
mod deterministic;
pub mod fold;
pub mod record;
pub mod schema;
mod scratch;
pub mod script;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use flotilla_shared::closed::is_internal;
use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::SchemaVersion;
use flotilla_shared::registry::Registry;
use flotilla_shared::sqlite;
use flotilla_shared::value::{Params, Value};
use flotilla_shared::wire::Rows;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

pub use record::Record;
pub use schema::Schema;
pub use scratch::{CreateAs, SchemaChange, check_schema_statement};

use crate::analyze::{self, Analysis};
use crate::lex::{Kind, Token, Tokens};
use crate::plan::shape::{Shape, shape};
use cache::Cache;
use record::Recorder;

/// Longest statement, in bytes: what the nodes accept as well.
pub const MAX_SQL_BYTES: usize = 1 << 20;

/// Connections per schema version: as many statements can be prepared at once.
const CONNECTIONS: usize = 4;

/// How long one statement may take on the mirror, which holds no rows.
const WORK_LIMIT: Duration = Duration::from_millis(500);

/// Steps between two looks at the clock.
const STEPS_PER_CHECK: i32 = 1000;

/// Rows of an answer about the schema.
const MAX_LOCAL_ROWS: usize = 100_000;

/// Bytes of an answer about the schema.
const MAX_LOCAL_BYTES: usize = 64 << 20;

/// Largest value, in bytes: what the nodes accept as well.
const MAX_VALUE_BYTES: i32 = 16 << 20;

/// What is known about a statement.
#[derive(Debug)]
pub struct Prepared {
    /// Its text.
    pub sql: String,
    /// It changes nothing.
    pub readonly: bool,
    /// Names of its parameters, in order, with their sigils.
    pub params: Vec<Option<String>>,
    /// Some parameter is a bare `?`.
    pub anonymous: bool,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// Their declared types in lower case; empty for expressions.
    pub types: Vec<String>,
    /// For each column that is just a table's: that table, in lower case, and its column.
    pub origins: Vec<Option<(String, String)>>,
    /// What it is and which keys it names.
    pub analysis: Analysis,
    shape: OnceLock<Shape>,
}

impl Prepared {
    /// Does each parameter have its argument, and each argument its parameter?
    ///
    /// # Errors
    /// [`Code::WrongArgCount`].
    pub fn check_args(&self, params: &Params) -> Result<(), Error> {
        if self.anonymous && matches!(params, Params::Named(_)) {
            return Err(Error::new(Code::WrongArgCount, "a `?` without a name takes its argument by place")
                .hint("give `args` as a list, or name the parameters"));
        }
        params.check(&self.params)
    }

    /// The argument of parameter `index`, from 1.
    pub fn arg<'a>(&self, params: &'a Params, index: usize) -> Option<&'a Value> {
        params.lookup(index, self.params.get(index.checked_sub(1)?)?.as_deref())
    }
}

struct Session {
    db: Connection,
    recorder: Recorder,
}

/// Who made a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Client,
    /// The planner, from a client's statement.
    Planner,
}

/// The mirror of one schema version.
pub struct Mirror {
    /// The version.
    pub version: SchemaVersion,
    cluster: u128,
    /// What the planner must know about it.
    pub schema: Schema,
    registry: Arc<Registry>,
    sessions: Vec<Mutex<Option<Session>>>,
    turn: AtomicUsize,
    /// Milliseconds since `start` at which a statement on each session is stopped.
    stop_at_ms: Vec<Arc<AtomicU64>>,
    start: Instant,
    statements: Cache<Prepared>,
    foreign_keys: bool,
}

impl Mirror {
    /// Builds the mirror of a registry.
    ///
    /// # Errors
    /// What SQLite says; a single object that SQLite cannot make is left out with a warning.
    pub fn build(registry: Arc<Registry>) -> Result<Self, Error> {
        let internal = |error: rusqlite::Error| Error::new(Code::Internal, format!("the schema mirror: {error}"));
        let db = open(&registry).map_err(internal)?;
        let schema = Schema::read(&registry, &db).map_err(internal)?;
        Ok(Self {
            version: registry.schema_version,
            cluster: registry.cluster,
            schema,
            registry,
            sessions: (0..CONNECTIONS).map(|_| Mutex::default()).collect(),
            turn: AtomicUsize::new(0),
            stop_at_ms: (0..CONNECTIONS).map(|_| Arc::default()).collect(),
            start: Instant::now(),
            statements: Cache::default(),
            foreign_keys: true,
        })
    }

    /// The same while foreign keys do not act, as in a transaction that is checked at its end: no statement reaches
    /// rows by them.
    pub fn without_foreign_keys(mut self) -> Self {
        self.schema.foreign_keys.clear();
        self.schema.checked_at_end.clear();
        Self { foreign_keys: false, ..self }
    }

    /// What is known about a statement, and whether it was known before.
    ///
    /// # Errors
    /// SQLite's own words, or a refusal.
    pub fn prepare(&self, sql: &str) -> Result<(Arc<Prepared>, bool), Error> {
        if let Some(known) = self.statements.get(sql) {
            return Ok((known, true));
        }
        if sql.len() > MAX_SQL_BYTES {
            return Err(Error::new(Code::TooLarge, format!("the statement is over {MAX_SQL_BYTES} bytes"))
                .hint("pass values as arguments, or split the statement"));
        }
        let tokens = Tokens::read(sql)?;
        let prepared = Arc::new(self.prepare_tokens(&tokens, Caller::Client)?);
        self.statements.put(sql, Arc::clone(&prepared));
        Ok((prepared, false))
    }

    /// What is known about a statement that the planner made; it may call the functions that clients may not. Not
    /// kept: it is asked for once per statement that it was made from.
    ///
    /// # Errors
    /// SQLite's own words, or a refusal.
    pub fn prepare_own(&self, sql: &str) -> Result<Prepared, Error> {
        self.prepare_tokens(&Tokens::read(sql)?, Caller::Planner)
    }

    /// The same for a statement that is made anew each time that a client's is run: what is known of it is kept.
    ///
    /// # Errors
    /// SQLite's own words, or a refusal.
    pub fn prepare_own_kept(&self, sql: &str) -> Result<(Arc<Prepared>, bool), Error> {
        // No statement of a client has such a text.
        let kept_as = format!("\0{sql}");
        if let Some(known) = self.statements.get(&kept_as) {
            return Ok((known, true));
        }
        let prepared = Arc::new(self.prepare_own(sql)?);
        self.statements.put(&kept_as, Arc::clone(&prepared));
        Ok((prepared, false))
    }

    fn prepare_tokens(&self, tokens: &Tokens<'_>, caller: Caller) -> Result<Prepared, Error> {
        check_words(tokens)?;
        self.with_session(|session| self.look_at(session, tokens, caller))?
    }

    fn look_at(&self, session: &mut Session, tokens: &Tokens<'_>, caller: Caller) -> Result<Prepared, Error> {
        session.recorder.take();
        let statement = session.db.prepare(tokens.sql);
        let mut record = session.recorder.take();
        if caller == Caller::Client && record.refused.is_none() {
            record.refused = record.internal_function.take();
        }
        let statement = match statement {
            Ok(_) if record.refused.is_some() => return Err(record.refused.expect("just seen")),
            Ok(statement) => statement,
            Err(error) => return Err(refusal(record, &error, tokens)),
        };
        let params =
            (1..=statement.parameter_count()).map(|i| statement.parameter_name(i).map(str::to_owned)).collect();
        let columns = statement.columns();
        let types = columns.map(|column| column.decl_type().unwrap_or("").to_ascii_lowercase()).collect();
        let origin = |column: rusqlite::ColumnMetadata<'_>| {
            Some((column.table_name()?.to_ascii_lowercase(), column.origin_name()?.to_owned()))
        };
        let origins = statement.columns_with_metadata().map(origin).collect();
        let columns = statement.column_names().map(str::to_owned).collect();
        let explain = statement.is_explain() != 0;
        let readonly = statement.readonly();
        let analysis = analyze::analyze(tokens, record, &self.schema, readonly, explain);
        let is_anonymous = |token: &Token| token.kind == Kind::Param && token.span.len() == 1;
        Ok(Prepared {
            sql: tokens.sql.to_owned(),
            readonly: readonly || explain,
            params,
            anonymous: tokens.list.iter().any(is_anonymous),
            columns,
            types,
            origins,
            analysis,
            shape: OnceLock::new(),
        })
    }

    /// How rows of several shards become the answer of a SELECT.
    pub fn shape<'a>(&self, prepared: &'a Prepared) -> &'a Shape {
        prepared.shape.get_or_init(|| shape(self, prepared))
    }

    /// Answers a statement about the schema alone.
    ///
    /// # Errors
    /// SQLite's own words; [`Code::TooLarge`].
    pub fn answer(&self, prepared: &Prepared, params: &Params) -> Result<Rows, Error> {
        let sqlite = |error: rusqlite::Error| Error::from_sqlite(&error);
        self.with_session(|session| {
            let mut statement = session.db.prepare(&prepared.sql).map_err(sqlite)?;
            params.bind(&mut statement)?;
            let width = statement.column_count();
            let mut values: Vec<Vec<Value>> = Vec::new();
            let mut bytes = 0;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().map_err(sqlite)? {
                let cells = (0..width).map(|i| row.get_ref(i).map(Value::from)).collect::<Result<Vec<_>, _>>();
                let cells = cells.map_err(sqlite)?;
                bytes += cells.iter().map(Value::size_bytes).sum::<usize>();
                values.push(cells);
                if values.len() > MAX_LOCAL_ROWS || bytes > MAX_LOCAL_BYTES {
                    let message = format!("the answer has over {MAX_LOCAL_ROWS} rows or {MAX_LOCAL_BYTES} bytes");
                    return Err(Error::new(Code::TooLarge, message).hint("narrow the query"));
                }
            }
            Ok(Rows { columns: prepared.columns.clone(), types: prepared.types.clone(), values })
        })?
    }

    /// Runs `work` on a free session, with a fresh deadline.
    fn with_session<T>(&self, work: impl FnOnce(&mut Session) -> T) -> Result<T, Error> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = (0..CONNECTIONS).map(|n| (first + n) % CONNECTIONS);
        let free = order.clone().find_map(|index| Some((index, self.sessions[index].try_lock().ok()?)));
        let (index, mut place): (usize, MutexGuard<'_, Option<Session>>) = free.unwrap_or_else(|| {
            let index = first % CONNECTIONS;
            (index, self.sessions[index].lock().unwrap_or_else(PoisonError::into_inner))
        });
        if place.is_none() {
            let session = self.session(index).map_err(|error| Error::from_sqlite(&error))?;
            *place = Some(session);
        }
        let stop = self.start.elapsed() + WORK_LIMIT;
        self.stop_at_ms[index].store(stop.as_millis() as u64, Ordering::Relaxed);
        Ok(work(place.as_mut().expect("just made")))
    }

    fn session(&self, index: usize) -> rusqlite::Result<Session> {
        let mut db = open(&self.registry)?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, self.foreign_keys)?;
        let recorder = Recorder::default();
        let (stop_at_ms, start) = (Arc::clone(&self.stop_at_ms[index]), self.start);
        db.progress_handler(
            STEPS_PER_CHECK,
            Some(move || start.elapsed().as_millis() as u64 > stop_at_ms.load(Ordering::Relaxed)),
        )?;
        let notes = recorder.clone();
        db.authorizer(Some(move |context: rusqlite::hooks::AuthContext<'_>| notes.authorize(&context)))?;
        Ok(Session { db, recorder })
    }

    /// The registry that it was built from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// How many statements are kept.
    pub fn cached(&self) -> usize {
        self.statements.count()
    }
}

/// An empty database with the registry's schema.
fn open(registry: &Registry) -> rusqlite::Result<Connection> {
    let db = sqlite::open_in_memory()?;
    db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    db.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    db.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES as i32)?;
    db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)?;
    for object in registry.objects.iter().filter(|object| !object.name.to_ascii_lowercase().starts_with("sqlite_")) {
        if let Err(error) = db.execute_batch(&object.sql) {
            tracing::error!(name = object.name, %error, "a schema object cannot be mirrored");
        }
    }
    Ok(db)
}

/// Refuses what SQLite's authorizer is not asked about.
fn check_words(tokens: &Tokens<'_>) -> Result<(), Error> {
    if tokens.is_word(analyze::first_word(tokens), "VACUUM") {
        return Err(record::forbidden(
            "VACUUM is not open to clients",
            "space of deleted rows is used again by itself",
        ));
    }
    let names = |index: &usize| matches!(tokens.list[*index].kind, Kind::Word | Kind::Quoted);
    let internal = (0..tokens.list.len()).filter(names).filter_map(|index| tokens.name(index)).find(|n| is_internal(n));
    match internal {
        Some(name) => Err(record::forbidden(
            format!("table {name} is internal"),
            "choose another name; `_flotilla_` tables are not open to clients",
        )),
        None => Ok(()),
    }
}

/// Why a statement did not prepare.
fn refusal(record: Record, error: &rusqlite::Error, tokens: &Tokens<'_>) -> Error {
    if let Some(refused) = record.refused {
        return refused;
    }
    let named_as_text = (0..tokens.list.len())
        .any(|index| tokens.list[index].kind == Kind::Text && tokens.name(index).is_some_and(|n| is_internal(&n)));
    let error = Error::from_sqlite(error);
    if error.code == Code::NoSuchTable && named_as_text {
        return record::forbidden(error.message, "`_flotilla_` tables are not open to clients");
    }
    error
}

/// The mirror of the newest schema version seen.
#[derive(Default)]
pub struct Mirrors {
    current: ArcSwapOption<Mirror>,
    building: Mutex<()>,
}

impl Mirrors {
    /// The mirror of that registry's schema, built if need be.
    ///
    /// # Errors
    /// When SQLite cannot be opened.
    pub fn of(&self, registry: &Arc<Registry>) -> Result<Arc<Mirror>, Error> {
        let fits =
            |mirror: &Arc<Mirror>| mirror.version == registry.schema_version && mirror.cluster == registry.cluster;
        if let Some(mirror) = self.current.load_full().filter(fits) {
            return Ok(mirror);
        }
        let _one_builds = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mirror) = self.current.load_full().filter(fits) {
            return Ok(mirror);
        }
        let mirror = Arc::new(Mirror::build(Arc::clone(registry))?);
        let newer = self
            .current
            .load()
            .as_ref()
            .is_none_or(|old| old.cluster != mirror.cluster || old.version < mirror.version);
        if newer {
            self.current.store(Some(Arc::clone(&mirror)));
        }
        Ok(mirror)
    }

    /// The one at hand.
    pub fn current(&self) -> Option<Arc<Mirror>> {
        self.current.load_full()
    }
}

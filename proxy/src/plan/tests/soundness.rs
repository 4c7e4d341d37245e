//! Routing against SQLite: what a shard that is not asked would have said never matters.
//!
//! Random tables with mixed affinities, collations and NULLs; random joins and conditions of all forms.
//! Each statement runs over all rows, and again over tables that hold, per source, only the rows whose
//! slots the routing allows. Both must give the same rows. That is stronger than looking at the rows of
//! the answer: a row left out of the right side of a LEFT JOIN would show as a row of NULLs.
//! `ROUTING_SCHEMAS=2000` tries more; a failure prints the seed of its schema.

use std::collections::BTreeSet;

use flotilla_shared::ids::Slot;
use flotilla_shared::slot::slot_of;
use rusqlite::Connection;

use super::*;
use crate::plan::route::{Keys, slots};

/// Schemas tried, each with `STATEMENTS`: a second or two together.
const SCHEMAS: u64 = 90;
const STATEMENTS: usize = 120;

/// Values that meet each other often, in one affinity or the other.
const POOL: &[&str] = &[
    "NULL",
    "1",
    "2",
    "5",
    "7",
    "-5",
    "1.0",
    "2.5",
    "5.0",
    "'1'",
    "'5'",
    "'05'",
    "'5.0'",
    "' 5 '",
    "'5x'",
    "'a'",
    "'A'",
    "'a '",
    "'ab'",
    "'Ab'",
    "'b'",
    "''",
    "x'61'",
    "x'35'",
    "9007199254740993",
    "9007199254740992.0",
    "1e300",
];

/// A generator of numbers (xorshift).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    pub(super) fn of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The columns of the three tables; the first `KEYS` of each are its key.
const COLUMNS: [[&str; 3]; 3] = [["k", "j", "x"], ["k", "j", "y"], ["k", "z", "x"]];
const KEYS: [usize; 3] = [1, 2, 1];

fn ddl(random: &mut Random) -> String {
    let mut ddl = String::new();
    for (number, columns) in COLUMNS.iter().enumerate() {
        let mut list = vec![format!("n{number} INT")];
        for column in columns {
            let rowid = *column == "k" && random.one_in(4);
            let declared = random.of(&["INTEGER", "INTEGER", "TEXT", "TEXT", "REAL", "NUMERIC", "BLOB", ""]);
            let collate = random.of(&["", "", "COLLATE NOCASE", "COLLATE RTRIM"]);
            list.push(match rowid {
                true => format!("{column} INTEGER PRIMARY KEY"),
                false => format!("{column} {declared} {collate}"),
            });
        }
        for copy in ["t", "f0_", "f1_", "f2_"] {
            ddl += &format!("CREATE TABLE {copy}{number} ({});", list.join(", "));
        }
    }
    ddl
}

/// What a statement is made of while it is written.
struct Writer<'r> {
    random: &'r mut Random,
    pool: &'r [&'static str],
    /// The table of each source so far.
    sources: Vec<usize>,
    args: Vec<&'static str>,
}

impl Writer<'_> {
    fn column(&mut self) -> String {
        let source = self.random.below(self.sources.len());
        let name = if self.random.one_in(2) { "k" } else { self.random.of(&COLUMNS[self.sources[source]]) };
        match self.random.below(8) {
            0 => name.to_owned(),
            1 => format!("(\"s{source}\".[{name}])"),
            _ => format!("s{source}.{name}"),
        }
    }

    fn literal(&mut self) -> &'static str {
        self.random.of(self.pool)
    }

    fn term(&mut self) -> String {
        let literal = self.literal();
        match self.random.below(16) {
            0..6 => literal.to_owned(),
            6..9 => {
                self.args.push(literal);
                format!("?{}", self.args.len())
            }
            9 => format!("CAST({literal} AS {})", self.random.of(&["INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB"])),
            10 => format!("{literal} + {}", self.random.of(&["0", "1", "4"])),
            11 => format!("{literal} || {}", self.literal()),
            12 => format!("+ CAST({literal} AS {})", self.random.of(&["INTEGER", "TEXT"])),
            13 => format!("lower({literal})"),
            14 => format!("coalesce({literal}, {})", self.literal()),
            _ => format!("- {literal}"),
        }
    }

    fn terms(&mut self) -> String {
        let count = self.random.below(4);
        (0..count).map(|_| self.term()).collect::<Vec<_>>().join(", ")
    }

    fn atom(&mut self) -> String {
        let (column, other) = (self.column(), self.column());
        let (term, more) = (self.term(), self.term());
        let op = self.random.of(&["=", "=", "=", "==", "IS", "<", "<=", ">", ">=", "<>"]);
        match self.random.below(26) {
            0..7 => format!("{column} {op} {term}"),
            7 => format!("{term} {op} {column}"),
            8..11 => format!("{column} = {other}"),
            11 => format!("{column} {op} {other}"),
            12 | 13 => format!("{column} IN ({})", self.terms()),
            14 => format!("{column} IN (VALUES ({term}), ({more}))"),
            15 => format!("{column} BETWEEN {term} AND {more}"),
            16 => format!("({column}, {other}) {op} ({term}, {more})"),
            17 => format!("({column}, {other}) IN (VALUES ({term}, {more}), ({more}, {term}))"),
            18 => format!("{column} {}", self.random.of(&["IS NULL", "ISNULL", "NOTNULL", "NOT NULL", "IS NOT NULL"])),
            19 => format!("{column} {op} {term} COLLATE NOCASE"),
            20 => format!("{column} = {term} {op} {more}"),
            21 => format!("NOT {column} {op} {term}"),
            22 => format!("+{column} {op} {term}"),
            23 => format!("{column} = {} COLLATE {}", self.literal(), self.random.of(&["NOCASE", "RTRIM"])),
            24 => format!("{column} COLLATE {} IN ({})", self.random.of(&["NOCASE", "RTRIM"]), self.terms()),
            _ => format!("{column} NOT IN ({})", self.terms()),
        }
    }

    fn condition(&mut self, depth: usize) -> String {
        let atom = self.atom();
        if depth == 0 || self.random.one_in(3) {
            return atom;
        }
        let op = self.random.of(&["AND", "AND", "OR"]);
        let rest = self.condition(depth - 1);
        match self.random.below(3) {
            0 => format!("({atom} {op} {rest})"),
            1 => format!("{rest} {op} {atom}"),
            _ => format!("{atom} {op} {rest}"),
        }
    }

    /// A statement over sources whose tables are called `{0}`, `{1}`, …
    fn statement(&mut self) -> String {
        let count = 1 + self.random.below(3);
        let mut from = String::new();
        for source in 0..count {
            self.sources.push(self.random.below(3));
            let join = self.random.below(8);
            let left = if self.random.one_in(2) { "LEFT " } else { "" };
            let natural = if join == 1 { "NATURAL " } else { "" };
            from += &match (source, join) {
                (0, _) => String::new(),
                (_, 0) => ", ".to_owned(),
                _ => format!(" {natural}{left}JOIN "),
            };
            from += &format!("{{{source}}} AS s{source}");
            let tie = match (source, join) {
                (0, _) | (_, 0 | 1) => String::new(),
                (_, 2) => " USING (k)".to_owned(),
                (_, 3) => format!(" ON {}", self.condition(1)),
                _ => {
                    let (left, column) = (self.random.below(source), self.random.of(&["k", "k", "k"]));
                    let tie = format!(" ON s{left}.k = s{source}.{column}");
                    if self.random.one_in(2) { format!("{tie} AND {}", self.condition(0)) } else { tie }
                }
            };
            from += &tie;
        }
        let numbers: Vec<String> = (0..count).map(|source| format!("s{source}.n{}", self.sources[source])).collect();
        let depth = self.random.below(4);
        format!("SELECT {} FROM {from} WHERE {}", numbers.join(", "), self.condition(depth))
    }
}

/// The slots of a table's rows, by row number.
fn row_slots(db: &Connection, bench: &Bench, number: usize) -> Vec<(i64, Slot)> {
    let placement = &bench.registry.placements[&bench.registry.tables[&format!("t{number}")].placement];
    let mut rows = db.prepare(&format!("SELECT * FROM t{number}")).unwrap();
    let rows = rows.query_map([], |row| {
        let key: Vec<Value> =
            (1..=KEYS[number]).map(|at| row.get_ref(at).map(Value::from)).collect::<Result<_, _>>()?;
        Ok((row.get(0)?, slot_of(&placement.key, &key, placement.slots)))
    });
    rows.unwrap().collect::<Result<_, _>>().unwrap()
}

fn answer(db: &Connection, sql: &str, args: &[Value]) -> rusqlite::Result<Vec<Vec<Option<i64>>>> {
    let mut statement = db.prepare(sql)?;
    let width = statement.column_count();
    let rows =
        statement.query_map(rusqlite::params_from_iter(args), |row| (0..width).map(|at| row.get(at)).collect())?;
    let mut rows: Vec<_> = rows.collect::<Result<_, _>>()?;
    rows.sort();
    Ok(rows)
}

#[derive(Default, Debug)]
struct Tally {
    ran: usize,
    restricted: usize,
    with_rows: usize,
}

fn with_schema(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let ddl = ddl(&mut random);
    let sharded: [(&str, &[&str], u32); 3] = [("t0", &["k"], 1), ("t1", &["k", "j"], 2), ("t2", &["k"], 3)];
    let registry = registry(3, &ddl, &sharded);
    let bench = Bench { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry };
    let db = Connection::open_in_memory().unwrap();
    db.execute_batch(&ddl).unwrap();
    let pool: Vec<&str> = (0..9).map(|_| random.of(POOL)).collect();
    for number in 0..3 {
        for row in 0..14 {
            let values: Vec<&str> = (0..3).map(|_| random.of(&pool)).collect();
            // A rowid takes no text, and each only once.
            db.execute(&format!("INSERT INTO t{number} VALUES ({row}, {})", values.join(", ")), []).ok();
        }
    }
    let all_slots = [0, 1, 2].map(|number| row_slots(&db, &bench, number));
    for _ in 0..STATEMENTS {
        let mut writer = Writer { random: &mut random, pool: &pool, sources: vec![], args: vec![] };
        let template = writer.statement();
        let (sources, args) = (writer.sources, writer.args);
        let fill = |name: &dyn Fn(usize) -> String| {
            (0..sources.len())
                .fold(template.clone(), |sql, source| sql.replace(&format!("{{{source}}}"), &name(source)))
        };
        let sql = fill(&|source| format!("t{}", sources[source]));
        let read = |literal: &&str| db.query_row(&format!("SELECT {literal}"), [], |r| Ok(Value::from(r.get_ref(0)?)));
        let args: Vec<Value> = args.iter().map(|literal| read(literal).unwrap()).collect();
        // Ambiguous names and the like.
        let Ok((prepared, _)) = bench.mirror.prepare(&sql) else { continue };
        let Ok(wanted) = answer(&db, &sql, &args) else { continue };
        tally.ran += 1;
        let Some(predicates) = prepared.analysis.predicates(&sql, &bench.registry) else { continue };
        let params = Params::Positional(args.clone());
        let mut names = Vec::new();
        let mut shown = Vec::new();
        for (source, number) in sources.iter().enumerate() {
            let table = &bench.registry.tables[&format!("t{number}")];
            let placement = &bench.registry.placements[&table.placement];
            let keys = slots(source, predicates, table, placement, &prepared, &params);
            let allowed: BTreeSet<i64> = match &keys {
                Keys::All => {
                    names.push(format!("t{number}"));
                    continue;
                }
                Keys::None => BTreeSet::new(),
                Keys::Some(slots) => {
                    let rows = all_slots[*number].iter().filter(|(_, slot)| slots.contains(slot));
                    rows.map(|(row, _)| *row).collect()
                }
            };
            let copy = format!("f{source}_{number}");
            let list: Vec<String> = allowed.iter().map(i64::to_string).collect();
            db.execute_batch(&format!(
                "DELETE FROM {copy}; INSERT INTO {copy} SELECT * FROM t{number} WHERE n{number} IN ({})",
                list.join(", ")
            ))
            .unwrap();
            names.push(copy);
            shown.push(format!("s{source}: rows {allowed:?}"));
        }
        let restricted = !shown.is_empty();
        tally.restricted += usize::from(restricted);
        tally.with_rows += usize::from(restricted && !wanted.is_empty());
        let got = answer(&db, &fill(&|source| names[source].clone()), &args).unwrap();
        assert_eq!(got, wanted, "seed {seed}\n{ddl}\n{sql}\n{args:?}\n{shown:?}\n{predicates:#?}");
    }
}

/// Over thousands of random statements, the rows that routing leaves out never change the answer; and
/// it does leave rows out.
#[test]
fn no_row_that_matters_is_left_out() {
    let mut tally = Tally::default();
    let schemas = std::env::var("ROUTING_SCHEMAS").map_or(SCHEMAS, |number| number.parse().unwrap());
    for seed in 1..=schemas {
        with_schema(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), &mut tally);
    }
    let Tally { ran, restricted, with_rows } = tally;
    assert!(ran > 3000 && restricted > 1500 && with_rows > 300, "too little was tried: {tally:?}");
}

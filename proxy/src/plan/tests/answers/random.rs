//! Random SELECTs over random partitions of rows: whatever shape a statement gets, it answers what one
//! SQLite with all rows answers.
//!
//! The forms are those in which a name, parameter, ordinal, alias, literal or collation is easily
//! misread: aliases that are columns too, parentheses, stars, CTEs named like tables, bare `?`, literals
//! that differ in case only, COLLATE in all places, aggregates of outer columns, limits out of range.
//! `ANSWER_SCHEMAS=2000` tries more; a failure prints the seed of its schema.

use super::super::soundness::Random;
use super::*;

/// Schemas tried, each with `STATEMENTS`: a few seconds together.
const SCHEMAS: u64 = 40;
const STATEMENTS: usize = 100;

const TEXTS: &[&str] = &["'x'", "'X'", "'y'", "'xa'", "'xA'", "'a'", "'b'", "''", "NULL"];
const NUMBERS: &[&str] = &["1", "2", "3", "5", "-1", "NULL"];
const ALIASES: &[&str] = &["a", "b", "c", "id", "v", "k", "\"k\"", "x", "rowid", "true", "'k'"];

/// Writes one statement.
struct Writer<'r> {
    random: &'r mut Random,
    /// Columns and aliases compare as bytes, so groups have one representative and ties are equal.
    binary: bool,
    /// The tables of the FROM.
    join: bool,
    /// Results that were written, with their aliases.
    items: Vec<(String, Option<&'static str>)>,
}

impl Writer<'_> {
    fn column(&mut self) -> String {
        let name = self.random.of(&["a", "a", "b", "b", "c", "id", "v", "rowid"]);
        let table = if name == "v" || (self.join && self.random.one_in(4)) { "u" } else { "t" };
        match self.random.below(8) {
            0 => format!("({name})"),
            1 => format!("\"{name}\""),
            2 => name.to_uppercase(),
            3 | 4 => format!("{table}.{name}"),
            5 => format!("{table}.\"{name}\""),
            _ => name.to_owned(),
        }
    }

    fn collate(&mut self) -> &'static str {
        if self.binary { "" } else { self.random.of(&["", "", "", " COLLATE NOCASE", " COLLATE BINARY"]) }
    }

    fn expr(&mut self) -> String {
        let (column, other, collate) = (self.column(), self.column(), self.collate());
        let text = self.random.of(&["'x'", "'X'", "'xa'", "\"x\"", "\"zz\"", "\"ZZ\"", "?", "?"]);
        match self.random.below(16) {
            0..4 => column,
            4 => format!("-{column}"),
            5 => format!("{column} = {text}{collate}"),
            6 => format!("{column} || {text}"),
            7 => format!("coalesce({column}, {text})"),
            8 => format!("{column} + {}", self.random.of(&["?", "1", "?", "2"])),
            9 => format!("CASE WHEN {column} = {text} THEN {other} ELSE {text} END"),
            10 => format!("lower({column}){collate}"),
            11 => format!("({column}{collate})"),
            12 => format!("+{column}"),
            13 => format!("{column} IN ({text}, 1)"),
            14 => format!("iif({column} > {other}, true, {text})"),
            _ => format!("instr({column}, {text}) > 0"),
        }
    }

    /// The same expression in another spelling, or one that differs from it only a little.
    fn respelled(&mut self, expr: &str) -> String {
        match self.random.below(6) {
            0 => expr.replace('x', "X"),
            1 => expr.replace('X', "x"),
            2 => format!("({expr})"),
            3 => format!("+({expr})"),
            4 => format!("{expr}{}", self.collate()),
            _ => expr.to_owned(),
        }
    }

    /// A term of ORDER BY or GROUP BY.
    fn term(&mut self) -> String {
        let (text, alias) = self.items[self.random.below(self.items.len())].clone();
        let number = 1 + self.random.below(self.items.len());
        match self.random.below(14) {
            0..4 => self.respelled(&text),
            4 => number.to_string(),
            5 => format!("({number})"),
            6 => format!("+{number}"),
            7 => format!("likely({number})"),
            8..11 => {
                let name = alias.unwrap_or("b").trim_matches(['"', '\'']);
                let collate = self.collate();
                let form = self.random.of(&["N", "N", "(N)", "-N", "\"N\"", "'N'", "+N", "t.N"]);
                format!("{}{collate}", form.replace('N', name))
            }
            _ => self.expr(),
        }
    }

    fn terms(&mut self) -> Vec<String> {
        let count = self.random.below(3);
        (0..count)
            .map(|_| format!("{}{}", self.term(), self.random.of(&["", "", " DESC", " ASC", " DESC NULLS LAST"])))
            .collect()
    }

    fn alias(&mut self) -> Option<&'static str> {
        if self.random.one_in(2) { Some(ALIASES[self.random.below(ALIASES.len())]) } else { None }
    }

    fn item(&mut self, expr: String) {
        let alias = self.alias();
        self.items.push((expr, alias));
    }

    fn results(&self) -> String {
        let list = self.items.iter().map(|(expr, alias)| match alias {
            Some(alias) => format!("{expr} AS {alias}"),
            None => expr.clone(),
        });
        list.collect::<Vec<_>>().join(", ")
    }

    fn subquery(&mut self) -> String {
        let inner = self.random.of(&["u.v", "t.b", "b", "v", "u.v + t.b", "x.id", "id"]);
        let alias = self.random.of(&["", "", " AS id", " AS k", " AS b"]);
        let link =
            self.random.of(&["u.id = t.id", "t.id = u.id", "u.id = id", "u.id = k", "x.id = t.id", "u.id = t.b"]);
        let call = self.random.of(&["N", "max(N)", "count(N)", "sum(N)", "count(*)"]);
        let source = if link.starts_with('x') || inner.starts_with('x') { "u AS x" } else { "u" };
        let select = format!("SELECT {}{alias} FROM {source} WHERE {link}", call.replace('N', inner));
        if self.random.one_in(3) { format!("EXISTS ({select})") } else { format!("({select})") }
    }

    fn condition(&mut self) -> String {
        match self.random.below(6) {
            0..2 => String::new(),
            2 => format!(" WHERE {}", self.subquery()),
            _ => format!(" WHERE {}", self.expr()),
        }
    }

    fn limit(&mut self) -> &'static str {
        self.random.of(&[
            "",
            "",
            " LIMIT 3",
            " LIMIT 2 OFFSET 2",
            " LIMIT 1, 4",
            " LIMIT 9223372036854775807 OFFSET 2",
            " LIMIT 4 OFFSET '-3'",
            " LIMIT -1 OFFSET 3",
            " LIMIT '3'",
        ])
    }

    fn from(&mut self) -> &'static str {
        self.join = self.random.one_in(3);
        match self.join {
            false => "t",
            true => self.random.of(&[
                "t JOIN u ON t.id = u.id",
                "t JOIN u USING (id)",
                "t LEFT JOIN u ON u.id = t.id",
                "t LEFT JOIN u USING (id)",
                "t NATURAL JOIN u",
                "t, u",
            ]),
        }
    }

    /// A statement, and whether the order of its rows is known.
    fn statement(&mut self) -> (String, bool) {
        let from = self.from();
        let tie = if self.join { "t.id, u.id" } else { "t.id" };
        let (sql, ordered) = match self.random.below(4) {
            0 => self.grouped(from),
            1 => self.distinct(from),
            _ => {
                for _ in 0..1 + self.random.below(3) {
                    let expr = match self.random.below(8) {
                        0 => "*".to_owned(),
                        1 => "t.*".to_owned(),
                        2 => self.subquery(),
                        _ => self.expr(),
                    };
                    if expr.ends_with('*') { self.items.push((expr, None)) } else { self.item(expr) }
                }
                let (results, condition) = (self.results(), self.condition());
                let terms: Vec<String> = self.terms().into_iter().filter(|term| !term.contains('*')).collect();
                let order = terms.into_iter().chain([tie.to_owned()]).collect::<Vec<_>>().join(", ");
                (format!("SELECT {results} FROM {from}{condition} ORDER BY {order}{}", self.limit()), true)
            }
        };
        let with = match self.random.below(12) {
            0 => "WITH t AS (SELECT id, v AS a, b, 'x' AS c FROM u) ",
            1 => "WITH u AS (SELECT id, b AS v, a AS b FROM t) ",
            _ => "",
        };
        (format!("{with}{sql}"), ordered)
    }

    /// Ties of these are equal rows, and so their order does not matter.
    fn whole_order(&mut self) -> String {
        let ordinals = (1..=self.items.len()).map(|number| number.to_string());
        self.terms().into_iter().chain(ordinals).collect::<Vec<_>>().join(", ")
    }

    fn distinct(&mut self, from: &str) -> (String, bool) {
        for _ in 0..1 + self.random.below(2) {
            let expr = self.expr();
            self.item(expr);
        }
        let (results, condition) = (self.results(), self.condition());
        let sql = format!("SELECT DISTINCT {results} FROM {from}{condition}");
        match self.binary && self.random.one_in(2) {
            true => (format!("{sql} ORDER BY {}{}", self.whole_order(), self.limit()), true),
            false => (sql, false),
        }
    }

    fn grouped(&mut self, from: &str) -> (String, bool) {
        let groups: Vec<String> = (0..1 + self.random.below(2)).map(|_| self.expr()).collect();
        for _ in 0..1 + self.random.below(3) {
            let expr = match self.random.below(5) {
                0 => "count(*)".to_owned(),
                1 => format!("count({})", self.column()),
                2 => format!("max({})", self.column()),
                _ => {
                    let group = groups[self.random.below(groups.len())].clone();
                    self.respelled(&group)
                }
            };
            self.item(expr);
        }
        let results = self.results();
        let condition = self.condition();
        let by: Vec<String> =
            groups.iter().map(|group| if self.random.one_in(4) { self.term() } else { group.clone() }).collect();
        let having = match self.random.below(5) {
            0 => format!(" HAVING {} > 1", self.term()),
            1 => " HAVING count(*) > 1".to_owned(),
            _ => String::new(),
        };
        let sql = format!("SELECT {results} FROM {from}{condition} GROUP BY {}{having}", by.join(", "));
        match self.binary && self.random.one_in(2) {
            true => (format!("{sql} ORDER BY {}{}", self.whole_order(), self.limit()), true),
            false => (sql, false),
        }
    }
}

fn schema(random: &mut Random, binary: bool) -> Partitions {
    let collate = if binary { "" } else { "COLLATE NOCASE" };
    let ddl = format!(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT {collate}, b INT, c);
         CREATE TABLE u(id INTEGER PRIMARY KEY, v INT, b TEXT)"
    );
    let p = Partitions::new(registry(2 + (random.below(3) as u32), &ddl, &[("t", &["id"], 1), ("u", &["id"], 1)]));
    for id in 1..=14 {
        let (a, b, c) = (random.of(TEXTS), random.of(NUMBERS), random.of(&[TEXTS, NUMBERS].concat()));
        p.insert("t", &format!("VALUES ({id}, {a}, {b}, {c})"));
        if random.one_in(2) {
            p.insert("u", &format!("VALUES ({id}, {}, {})", random.of(NUMBERS), random.of(TEXTS)));
        }
    }
    p
}

/// How many statements ran, and how many of them were pushed down.
#[derive(Default, Debug)]
struct Tally {
    ran: usize,
    pushed: usize,
    rows: usize,
}

fn with_schema(seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let binary = random.one_in(2);
    let p = schema(&mut random, binary);
    for _ in 0..STATEMENTS {
        let mut writer = Writer { random: &mut random, binary, join: false, items: vec![] };
        let (sql, ordered) = writer.statement();
        let args: Vec<Value> = (0..sql.matches('?').count())
            .map(|_| match random.below(4) {
                0 => text("x"),
                1 => text("X"),
                n => Value::Integer(n as i64),
            })
            .collect();
        // Ambiguous names, aggregates where none may be, and the like.
        let Ok(wanted) = p.wanted(&sql, &args) else { continue };
        let (rows, plan) = p.answer(&sql, &args).unwrap_or_else(|error| panic!("seed {seed}: {sql} {args:?}: {error}"));
        tally.ran += 1;
        tally.rows += usize::from(!wanted.is_empty());
        tally.pushed += usize::from(!matches!(&plan, Plan::Merge(merge) if merge.pulls_tables()));
        let grouped = ["GROUP BY", "DISTINCT", "max(", "sum(", "count("].iter().any(|call| sql.contains(call));
        // One of several equal values stands for a group.
        let shown = |rows: Vec<Vec<Value>>| -> Vec<String> {
            let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
            if !ordered {
                rows.iter_mut().filter(|_| !binary).for_each(|row| *row = row.to_lowercase());
                rows.sort();
            }
            rows
        };
        // Columns outside of GROUP BY, and those that DISTINCT is sorted by beside its results, are those of any
        // row of a group; only SQLite itself runs such a statement.
        if grouped && matches!(&plan, Plan::Merge(merge) if merge.pulls_tables()) {
            continue;
        }
        assert_eq!(shown(rows), shown(wanted), "seed {seed}: {sql} {args:?}\n{plan}");
    }
}

/// Over thousands of statements, every shape gives what one SQLite gives, and many are pushed down.
#[test]
fn every_shape_answers_what_one_sqlite_does() {
    let mut tally = Tally::default();
    let schemas = std::env::var("ANSWER_SCHEMAS").map_or(SCHEMAS, |number| number.parse().unwrap());
    for seed in 1..=schemas {
        with_schema(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), &mut tally);
    }
    let Tally { ran, pushed, rows } = tally;
    assert!(ran > 1500 && pushed > 500 && rows > 1000, "too little was tried: {tally:?}");
}

//! Readable scripts, each about one rule, on three shards: `tests/scripts/*`.
//!
//! A script is a [goldenscript](https://docs.rs/goldenscript): statements, `---`, what they print.
//! `UPDATE_GOLDENFILES=1 cargo test -p flotilla-tests --test scripts` writes what they print now; read it
//! before it is committed. Every statement also runs on one SQLite database, and what Flotilla does not
//! refuse must be the same there, so that no script can hold a wrong answer.
//!
//! Commands: `> STATEMENT`; `!> STATEMENT` for one that fails; `register TABLE key=a,b colocate_with=T`;
//! `begin` and `commit` around the statements of one transaction; the tag `[plan]` shows the plan of a
//! statement instead of running it, and `[names]` names and declared types of the columns; `-- args […]` at the end of a statement gives arguments as JSON. Rows
//! are sorted unless the statement says ORDER BY.

use std::error::Error;
use std::fmt::Write as _;

use flotilla_shared::value::Params;
use flotilla_shared::wire::{Rows, Statement};
use flotilla_tests::differential::remote::{body, outcome};
use flotilla_tests::differential::statement::literal;
use flotilla_tests::differential::{Case, Kind, Local, Order, Outcome, Rule, Verdict, compare};
use flotilla_tests::harness::binary::repository;
use flotilla_tests::harness::{Client, Dev};
use goldenscript::{Command, Context};
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;

/// Begins the arguments of a statement.
const ARGS: &str = " -- args ";

type Fallible<T> = Result<T, Box<dyn Error>>;

struct Runner {
    runtime: Runtime,
    client: Client,
    local: Local,
    transaction: Option<Vec<Case>>,
    differences: Vec<String>,
}

/// A statement, and the arguments in the comment at its end.
fn case(sql: &str) -> Fallible<Case> {
    let order = if sql.contains("ORDER BY") { Order::Fixed } else { Order::Open };
    let args = sql.split_once(ARGS).map(|(_, args)| serde_json::from_str::<Json>(args)).transpose()?;
    let params = Params::from_json(args.as_ref()).map_err(|error| error.to_string())?;
    Ok(Case { params, rule: Rule { order, close: true, ..Rule::default() }, ..Case::plain(Kind::Scan, sql.to_owned()) })
}

impl Runner {
    fn post(&mut self, path: &str, body: &Json) -> Fallible<Json> {
        let reply = self.runtime.block_on(self.client.post(path, body))?;
        let json = reply.json();
        match json["error"].as_object() {
            Some(error) => Err(told(&text(&error["code"]), &text(&error["message"])).into()),
            None => Ok(json),
        }
    }

    fn run_one(&mut self, case: &Case, names: bool) -> Fallible<String> {
        let statement: Statement = case.statement();
        let reply = self.runtime.block_on(self.client.post("/sql", &body(&statement)))?.json();
        // A single statement's error is the answer's.
        let found = outcome(if reply["error"].is_null() { &reply["results"][0] } else { &reply });
        self.check(case, &found);
        show(&found, case, names)
    }

    /// SQLite does the same, unless Flotilla declines.
    fn check(&mut self, case: &Case, found: &Outcome) {
        let declined = Outcome::Failed { code: String::new(), message: String::new() };
        let forbidden = matches!(found, Outcome::Failed { code, .. } if code == "forbidden_statement");
        if forbidden || matches!(compare(&declined, found, &case.rule, None), Verdict::Refused(_)) {
            return;
        }
        if is_schema(case) && !matches!(found, Outcome::Failed { .. }) {
            // SQLite leaves its count of rows as it was.
            return self.local.setup(&case.sql);
        }
        if let Verdict::Different(what) = compare(&self.local.run(&case.statement()), found, &case.rule, None) {
            self.differences.push(format!("{}: {what}", case.sql));
        }
    }

    /// The plan as text.
    fn plan(&mut self, sql: &str) -> Fallible<String> {
        let mut path = "/explain?q=".to_owned();
        for byte in sql.bytes() {
            match byte.is_ascii_alphanumeric() {
                true => path.push(byte.into()),
                false => write!(path, "%{byte:02X}")?,
            }
        }
        let json = self.runtime.block_on(self.client.get(&path))?.json();
        match json["text"].as_str() {
            Some(text) => Ok(format!("{}\n", text.trim_end())),
            None => Err(told(&text(&json["error"]["code"]), &text(&json["error"]["message"])).into()),
        }
    }

    fn register(&mut self, command: &Command) -> Fallible<String> {
        let mut args = command.consume_args();
        let table = args.next_pos().ok_or("which table?")?.to_owned();
        let key: Vec<&str> = args.take_key("key").ok_or("by what key?")?.split(',').collect();
        let beside = args.take_key("colocate_with");
        args.reject_next()?;
        let body = json!({ "table_name": table, "shard_key": key, "colocate_with": beside });
        self.post("/table/register", &body)?;
        Ok(String::new())
    }

    fn commit(&mut self) -> Fallible<String> {
        let cases = self.transaction.take().ok_or("there is no transaction")?;
        let list: Vec<Json> = cases.iter().map(|case| body(&case.statement())).collect();
        let answer = self.post("/execute", &json!({ "statements": list, "transaction": true }))?;
        let results = answer["results"].as_array().ok_or("no results")?;
        let mut output = String::new();
        for (case, result) in cases.iter().zip(results) {
            let found = outcome(result);
            let is_read = case.sql.starts_with("SELECT");
            // Inside a transaction a read tells of itself as a write does.
            let found = match found {
                Outcome::Write(result) if is_read => Outcome::Rows(result.rows.ok_or("a read without rows")?),
                other => other,
            };
            self.check(case, &found);
            output.push_str(&show(&found, case, false)?);
        }
        Ok(output)
    }
}

/// An error: SQLite's in its words, a refusal by its code alone.
fn told(code: &str, message: &str) -> String {
    match code {
        "sql_error" | "constraint" | "no_such_table" => format!("{code}: {message}"),
        _ => code.to_owned(),
    }
}

fn is_schema(case: &Case) -> bool {
    ["CREATE", "DROP", "ALTER"].iter().any(|word| case.sql.starts_with(word))
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

fn show(found: &Outcome, case: &Case, names: bool) -> Fallible<String> {
    match found {
        Outcome::Failed { code, message } => Err(told(code, message).into()),
        Outcome::Rows(rows) => Ok(show_rows(rows, case, names)),
        Outcome::Write(result) => {
            let head = match result.rows_affected {
                _ if is_schema(case) => String::new(),
                1 => "1 row\n".to_owned(),
                rows => format!("{rows} rows\n"),
            };
            let rows = result.rows.as_ref().map(|rows| show_rows(rows, case, names)).unwrap_or_default();
            Ok(head + &rows)
        }
    }
}

fn show_rows(rows: &Rows, case: &Case, names: bool) -> String {
    let mut lines: Vec<String> =
        rows.values.iter().map(|row| row.iter().map(literal).collect::<Vec<_>>().join(" | ")).collect();
    if case.rule.order == Order::Open {
        lines.sort();
    }
    let mut output = String::new();
    if names {
        let columns: Vec<String> = rows
            .columns
            .iter()
            .zip(&rows.types)
            .map(|(name, kind)| format!("{name} {kind}").trim_end().to_owned())
            .collect();
        writeln!(output, "[{}]", columns.join(" | ")).expect("text takes all");
    }
    if lines.is_empty() {
        output.push_str("no rows\n");
    }
    lines.iter().for_each(|line| writeln!(output, "{line}").expect("text takes all"));
    output
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Fallible<String> {
        match command.name.as_str() {
            "register" => self.register(command),
            "begin" => {
                self.transaction = Some(vec![]);
                Ok(String::new())
            }
            "commit" => self.commit(),
            sql if context.tags.contains("plan") => self.plan(sql),
            sql => {
                let case = case(sql)?;
                match &mut self.transaction {
                    Some(list) => {
                        list.push(case);
                        Ok(String::new())
                    }
                    None => self.run_one(&case, context.tags.contains("names")),
                }
            }
        }
    }
}

/// Every script prints what it says.
#[test]
fn scripts_print_what_they_say() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dev = runtime.block_on(Dev::start(1, 3));
    let mut runner = Runner {
        runtime,
        client: Client::new(&dev.address),
        local: Local::new(),
        transaction: None,
        differences: vec![],
    };
    let mut scripts: Vec<_> =
        std::fs::read_dir(repository().join("tests/scripts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() > 10, "the scripts were not found");
    for script in scripts {
        println!("{}", script.display());
        goldenscript::run(&mut runner, &script).unwrap();
    }
    assert!(runner.differences.is_empty(), "SQLite differs: {:#?}", runner.differences);
}

//! One connection with its settings: sends statements, prints results, counts failures.
//!
//! Statements come from [`super::script`] and [`super::shell`]. Rows go to standard output, everything
//! else to standard error. A statement that failed is reported and counted; only a cluster that no
//! longer answers ends the run.

use std::io::Write as _;
use std::time::{Duration, Instant};

use flotilla_shared::error::{Class, Code};
use flotilla_shared::ids::RequestId;
use indicatif::ProgressBar;

use super::Level;
use super::classify::Kind;
use super::load::Object;
use super::splitter::Text;
use super::unit::Unit;
use crate::commands::output::{Mode, Results, StatementResult, count, render};
use crate::commands::{CommandError, call, duration, parse};
use crate::http_client::{Call, Client};

/// For whom results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A person: row counts and times after each statement.
    Interactive,
    /// `-c`: rows, and row counts of writes.
    Command,
    /// A script: rows only, errors with line numbers.
    Script,
}

/// See the module.
pub struct Session {
    pub client: Client,
    pub mode: Mode,
    pub level: Option<Level>,
    pub timer: bool,
    pub bail: bool,
    /// Failures before the script at hand began.
    pub failed_before: u64,
    /// `PRAGMA foreign_keys=OFF` is in force.
    pub keys_off: bool,
    /// What the load at hand has made.
    pub made: Vec<Object>,
    pub style: Style,
    /// Name of the script being read, for messages.
    pub script_name: Option<String>,
    /// Scripts that `.read` each other.
    pub depth: u32,
    /// Printing goes around it.
    pub bar: Option<ProgressBar>,
    succeeded: u64,
    failed: u64,
    rows_affected: u64,
    started: Instant,
}

impl Session {
    /// A session for a person.
    pub fn new(client: Client, mode: Mode, level: Option<Level>) -> Self {
        Self {
            client,
            mode,
            level,
            timer: true,
            bail: false,
            failed_before: 0,
            keys_off: false,
            made: vec![],
            style: Style::Interactive,
            script_name: None,
            depth: 0,
            bar: None,
            succeeded: 0,
            failed: 0,
            rows_affected: 0,
            started: Instant::now(),
        }
    }

    /// Has anything failed, and shall a script stop then?
    pub fn must_stop(&self) -> bool {
        self.bail && self.failed > self.failed_before
    }

    /// Statements that failed so far.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Statements that worked, and rows they changed.
    #[cfg(test)]
    pub fn done(&self) -> (u64, u64) {
        (self.succeeded, self.rows_affected)
    }

    /// Fails when a statement failed; each was reported when it happened.
    pub fn verdict(&self) -> Result<(), CommandError> {
        if self.failed == 0 { Ok(()) } else { Err(CommandError::Reported) }
    }

    /// The closing line of a script.
    pub fn print_totals(&self) {
        let mut line = format!(
            "{}, {} affected, {}",
            count(self.succeeded, "statement"),
            count(self.rows_affected, "row"),
            duration::show(self.started.elapsed())
        );
        if self.failed > 0 {
            line.push_str(&format!("; {} FAILED", count(self.failed, "statement")));
        }
        self.note(&line);
    }

    /// Sends one statement that is not a write of a batch.
    pub async fn run_alone(&mut self, statement: &Text, kind: Kind) -> Result<(), CommandError> {
        let request = match kind {
            Kind::Read => {
                Call::post(Level::query_path(self.level), serde_json::json!({ "query": statement.text }).to_string())
            }
            Kind::Either => Call::post("/sql", serde_json::json!({ "sql": statement.text }).to_string()),
            Kind::Write => return self.run_batch(std::slice::from_ref(statement)).await,
        };
        let start = Instant::now();
        match call(&mut self.client, &request).await {
            Ok(reply) => {
                let results: Results = parse(&reply)?;
                for result in &results.results {
                    self.report(result, statement.line, start.elapsed());
                }
                Ok(())
            }
            Err(error) => self.failure(std::slice::from_ref(statement), error),
        }
    }

    /// Sends writes as one body under one `Idempotency-Key`.
    pub async fn run_batch(&mut self, statements: &[Text]) -> Result<(), CommandError> {
        let mut body = serde_json::json!({ "statements": queries(statements) });
        if self.bail && statements.len() > 1 {
            body["stop_on_error"] = true.into();
        }
        self.send_together(statements, &body).await
    }

    /// Sends the statements of a transaction, to take effect together.
    pub async fn run_unit(&mut self, unit: &Unit) -> Result<(), CommandError> {
        let mut body = serde_json::json!({ "statements": queries(&unit.statements), "transaction": true });
        if unit.unenforced {
            body["foreign_keys"] = "off".into();
        }
        let failed = self.failed;
        let sent = self.send_together(&unit.statements, &body).await;
        if self.failed > failed && sent.is_ok() {
            let (first, last) = (unit.statements[0].line, unit.statements[unit.statements.len() - 1].line);
            self.note(&format!("the transaction of lines {first} to {last} changed nothing"));
        }
        sent
    }

    /// A script took back what it had not sent.
    pub fn rolled_back(&self, count: usize, line: u64) {
        self.note(&format!("{}rolled back: {count} statements were not run", self.place(line)));
    }

    /// Sends a body with statements, under one `Idempotency-Key`.
    pub(super) async fn send_together(
        &mut self,
        statements: &[Text],
        body: &serde_json::Value,
    ) -> Result<(), CommandError> {
        let request = Call::post("/execute", body.to_string()).with_key(RequestId::random().to_string());
        let start = Instant::now();
        let reply = match call(&mut self.client, &request).await {
            Ok(reply) => reply,
            Err(error) => return self.failure(statements, error),
        };
        let results: Results = parse(&reply)?;
        let elapsed = start.elapsed();
        let not_run =
            |result: &StatementResult| result.error.as_ref().is_some_and(|error| error.code == Code::NotRun.as_str());
        for (statement, result) in statements.iter().zip(&results.results).filter(|(_, result)| !not_run(result)) {
            self.report(result, statement.line, elapsed);
        }
        if results.results.len() != statements.len() {
            return Err(CommandError::Failed(format!(
                "{}{} were sent, {} were answered",
                self.place(statements[0].line),
                count(statements.len() as u64, "statement"),
                count(results.results.len() as u64, "result")
            )));
        }
        Ok(())
    }

    /// A whole request failed. What the server refused is counted and the run goes on; from a cluster
    /// that does not answer, every further statement would only wait as long again.
    fn failure(&mut self, statements: &[Text], error: CommandError) -> Result<(), CommandError> {
        self.failed += statements.len() as u64;
        let (first, last) = (statements[0].line, statements[statements.len() - 1].line);
        let goes_on = match &error {
            CommandError::Api(api) => {
                let code = Code::ALL.iter().find(|code| code.as_str() == api.code);
                code.is_some_and(|code| code.class() == Class::Refused)
            }
            _ => false,
        };
        self.note(&format!("{}{error}", self.place(first)));
        if goes_on || self.style == Style::Interactive {
            return Ok(());
        }
        if self.style == Style::Script {
            self.note(&format!(
                "stopped: lines {first} to {last} may or may not have been executed, later lines were not"
            ));
        }
        Err(CommandError::Reported)
    }

    fn report(&mut self, result: &StatementResult, line: u64, elapsed: Duration) {
        if let Some(error) = &result.error {
            self.failed += 1;
            self.note(&format!("{}{error}", self.place(line)));
            return;
        }
        self.succeeded += 1;
        self.rows_affected += result.rows_affected.unwrap_or(0);
        self.print(&render(result, self.mode));
        match (self.style, self.mode) {
            (Style::Interactive, _) => {
                let time = if self.timer { format!(" ({})", duration::show(elapsed)) } else { String::new() };
                self.note(&format!("{}{time}", summary(result)));
            }
            (Style::Command, Mode::Table) if result.columns.is_none() => {
                self.print(&format!("{}\n", summary(result)));
            }
            (Style::Command, Mode::Json) if result.columns.is_none() => {
                let object = serde_json::json!({
                    "rows_affected": result.rows_affected, "last_insert_id": result.last_insert_id
                });
                self.print(&format!("{object}\n"));
            }
            _ => {}
        }
    }

    /// Counts a failure that no statement of SQL made.
    pub fn fail(&mut self, line: u64, why: &dyn std::fmt::Display) {
        self.failed += 1;
        self.note(&format!("{}{why}", self.place(line)));
    }

    /// Of a line, or of the whole for 0.
    fn place(&self, line: u64) -> String {
        if line == 0 {
            return String::new();
        }
        match (&self.script_name, self.style) {
            (Some(name), _) => format!("{name}:{line}: "),
            (None, Style::Script) => format!("line {line}: "),
            (None, _) => String::new(),
        }
    }

    /// To standard output; a closed pipe ends the process as it would any filter.
    pub fn print(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        let write = || {
            let mut out = std::io::stdout().lock();
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                std::process::exit(1);
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// To standard error.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

pub(super) fn queries(statements: &[Text]) -> Vec<serde_json::Value> {
    statements.iter().map(|text| serde_json::json!({ "query": text.text })).collect()
}

fn summary(result: &StatementResult) -> String {
    if result.columns.is_some() && result.rows_affected.is_none_or(|n| n == 0) {
        return count(result.values.len() as u64, "row");
    }
    match result.rows_affected {
        Some(n) => format!("{} affected", count(n, "row")),
        None => "done".to_owned(),
    }
}

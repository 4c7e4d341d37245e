//! Runs SQL from a text, a file or standard input, in batches and without ever holding it whole.

use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::classify::{self, Kind};
use super::dot::{self, Flow};
use super::session::{Session, Style};
use super::splitter::{Piece, Splitter, Text};
use super::unit::{Refusal, Step, Units};
use crate::commands::CommandError;

/// A batch is one entry of work for the server; more would not be faster, and a failed one is sent again.
const MAX_BATCH_STATEMENTS: usize = 500;
/// The same where each statement waits for the one before it: the server must be done within its deadline.
const MAX_ORDERED_STATEMENTS: usize = 100;
/// The body's limit: well below what the server takes.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// What one statement costs in a body besides its text.
const STATEMENT_OVERHEAD_BYTES: usize = 16;
/// Read from the file at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A shorter script is over before a bar could be read.
const MIN_BAR_BYTES: u64 = 256 << 10;

/// Where a script comes from.
pub struct Source {
    reader: Box<dyn AsyncRead + Unpin + Send>,
    /// For messages; `None` where line numbers alone say it.
    name: Option<String>,
    /// Of a regular file: for the progress bar.
    length_bytes: Option<u64>,
    is_text: bool,
}

impl Source {
    /// The text of `-c`.
    pub fn text(text: String) -> Self {
        Self {
            reader: Box::new(std::io::Cursor::new(text.into_bytes())),
            name: None,
            length_bytes: None,
            is_text: true,
        }
    }

    /// A file.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn file(path: &Path) -> Result<Self, CommandError> {
        let name = path.display().to_string();
        let file = File::open(path).await.map_err(|error| CommandError::io(&name, &error))?;
        let metadata = file.metadata().await.map_err(|error| CommandError::io(&name, &error))?;
        if metadata.is_dir() {
            return Err(CommandError::Failed(format!("{name} is a folder")));
        }
        let length_bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self { reader: Box::new(file), name: Some(name), length_bytes, is_text: false })
    }

    /// Standard input.
    ///
    /// # Errors
    /// When it is closed.
    pub fn stdin() -> Result<Self, CommandError> {
        let failed = |error| CommandError::io("standard input", &error);
        let file = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        let length_bytes = metadata.is_file().then_some(metadata.len());
        Ok(Self { reader: Box::new(File::from_std(file)), name: None, length_bytes, is_text: false })
    }

    fn bar(&self) -> Option<ProgressBar> {
        let is_short = self.length_bytes.is_some_and(|length| length < MIN_BAR_BYTES);
        if self.is_text || is_short || !std::io::stderr().is_terminal() {
            return None;
        }
        let (bar, template) = match self.length_bytes {
            Some(length) => (
                ProgressBar::new(length),
                "{elapsed_precise} [{bar:32}] {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left)",
            ),
            None => (ProgressBar::no_length(), "{elapsed_precise} {spinner} {bytes} ({bytes_per_sec})"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Some(bar)
    }
}

/// Writes waiting to be sent together.
#[derive(Default)]
struct Batch {
    statements: Vec<Text>,
    bytes: usize,
}

impl Batch {
    /// The size of a statement's text as JSON, without writing it: escapes counted, the rest as is.
    fn cost(text: &str) -> usize {
        let escapes = text.bytes().map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
            0..0x20 => 5,
            _ => 0,
        });
        text.len() + escapes.sum::<usize>() + STATEMENT_OVERHEAD_BYTES
    }

    fn fits(&self, cost: usize, max_statements: usize) -> bool {
        self.statements.is_empty() || self.statements.len() < max_statements && self.bytes + cost <= MAX_BATCH_BYTES
    }

    fn add(&mut self, statement: Text, cost: usize) {
        self.statements.push(statement);
        self.bytes += cost;
    }

    async fn send(&mut self, session: &mut Session) -> Result<(), CommandError> {
        let batch = std::mem::take(self);
        if batch.statements.is_empty() { Ok(()) } else { session.run_batch(&batch.statements).await }
    }
}

/// Runs a script to its end, to `.quit`, or to its first error unless it shall keep going.
///
/// # Errors
/// When the input cannot be read or cut, or the cluster no longer answers. Statements that failed
/// are in the session's count instead.
pub async fn run(session: &mut Session, source: Source) -> Result<Flow, CommandError> {
    let outer_name = std::mem::replace(&mut session.script_name, source.name.clone());
    let outer_bar = std::mem::replace(&mut session.bar, source.bar());
    let outcome = run_pieces(session, source).await;
    if let Some(bar) = std::mem::replace(&mut session.bar, outer_bar) {
        bar.finish_and_clear();
    }
    session.script_name = outer_name;
    outcome
}

async fn run_pieces(session: &mut Session, mut source: Source) -> Result<Flow, CommandError> {
    let mut splitter = Splitter::default();
    let mut batch = Batch::default();
    let mut units = Units::new(session.keys_off);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = source
            .reader
            .read(&mut chunk)
            .await
            .map_err(|error| CommandError::io(source.name.as_deref().unwrap_or("standard input"), &error))?;
        let mut pieces = Vec::new();
        let cut = match read {
            0 => splitter.finish().map(|last| pieces.extend(last)),
            _ => splitter.feed(&chunk[..read], &mut pieces),
        };
        for piece in pieces {
            let flow = run_piece(session, &mut units, &mut batch, piece).await?;
            session.keys_off = units.keys_off;
            if flow.is_stop() || session.must_stop() {
                return Ok(stopped(session, flow));
            }
        }
        if let Err(error) = cut {
            batch.send(session).await?;
            session.fail(error.line(), &format_args!("error[incomplete]: {error}"));
            return Ok(Flow::Continue);
        }
        if read == 0 {
            let last = units.finish();
            take_steps(session, &mut units, &mut batch, last).await?;
            batch.send(session).await?;
            return Ok(Flow::Continue);
        }
        if let Some(bar) = &session.bar {
            bar.inc(read as u64);
        }
    }
}

/// Says that the script did not run to its end.
fn stopped(session: &Session, flow: Flow) -> Flow {
    if session.must_stop() && session.style == Style::Script {
        session.note("stopped at the first error: later lines were not run; --keep-going runs them");
    }
    if session.must_stop() { Flow::Stop } else { flow }
}

async fn run_piece(
    session: &mut Session,
    units: &mut Units,
    batch: &mut Batch,
    piece: Piece,
) -> Result<Flow, CommandError> {
    match piece {
        Piece::Statement(statement) => {
            let steps = units.take(statement);
            take_steps(session, units, batch, steps).await?;
            Ok(Flow::Continue)
        }
        Piece::Dot(command) if units.is_open() => {
            batch.send(session).await?;
            session.fail(command.line, &"error[usage]: a transaction is open; end it before this command");
            Ok(Flow::Continue)
        }
        Piece::Dot(command) => {
            let steps = Ok(units.end_region(true));
            take_steps(session, units, batch, steps).await?;
            batch.send(session).await?;
            if session.must_stop() {
                return Ok(Flow::Stop);
            }
            let flow = Box::pin(dot::run(session, &command)).await?;
            units.keys_off = session.keys_off;
            Ok(flow)
        }
    }
}

/// Does what the next statements come to.
async fn take_steps(
    session: &mut Session,
    units: &mut Units,
    batch: &mut Batch,
    steps: Result<Vec<Step>, Refusal>,
) -> Result<(), CommandError> {
    let steps = match steps {
        Ok(steps) => steps,
        Err(Refusal { line, why }) => {
            batch.send(session).await?;
            if session.unload().await? {
                units.abandon();
            }
            if !session.must_stop() {
                session.fail(line, &format_args!("error[transaction]: {why}"));
            }
            return Ok(());
        }
    };
    for step in steps {
        if let Step::Alone(statement) = step {
            take(session, batch, statement).await?;
            continue;
        }
        batch.send(session).await?;
        if session.must_stop() {
            return Ok(());
        }
        match step {
            Step::Unit(unit) => session.run_unit(&unit).await?,
            Step::RolledBack(count, line) => session.rolled_back(count, line),
            Step::Part(part) => {
                if !session.load(&part).await? {
                    units.abandon();
                    return Ok(());
                }
            }
            Step::Loaded(rest) => session.loaded(&rest).await?,
            Step::Unload => drop(session.unload().await?),
            Step::Alone(_) => (),
        }
    }
    Ok(())
}

/// Puts a write into the batch, sends what is full, runs a read after the writes before it.
async fn take(session: &mut Session, batch: &mut Batch, statement: Text) -> Result<(), CommandError> {
    let kind = classify::kind(&statement.text);
    if kind != Kind::Write {
        batch.send(session).await?;
        if session.must_stop() {
            return Ok(());
        }
        return session.run_alone(&statement, kind).await;
    }
    let max_statements = if session.bail { MAX_ORDERED_STATEMENTS } else { MAX_BATCH_STATEMENTS };
    let apart = session.bail && classify::changes_schema(&statement.text);
    let cost = Batch::cost(&statement.text);
    if apart || !batch.fits(cost, max_statements) {
        batch.send(session).await?;
        if session.must_stop() {
            return Ok(());
        }
    }
    batch.add(statement, cost);
    // A person and `-c` want to see each statement's own time and result.
    if apart || session.style != Style::Script {
        batch.send(session).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch is full by count or by the bytes of its JSON; one statement always fits.
    #[test]
    fn batches() {
        let text = |text: &str| Text { text: text.to_owned(), line: 1 };
        let mut batch = Batch::default();
        assert!(batch.fits(2 * MAX_BATCH_BYTES, 500));
        for _ in 0..MAX_BATCH_STATEMENTS {
            assert!(batch.fits(10, 500));
            batch.add(text("x"), 10);
        }
        assert!(!batch.fits(10, 500) && !batch.fits(10, 100));
        let mut batch = Batch::default();
        batch.add(text("x"), MAX_BATCH_BYTES - 10);
        assert!(batch.fits(10, 500) && !batch.fits(11, 500));
    }

    /// The estimate is never below what JSON needs.
    #[test]
    fn costs() {
        for sql in ["SELECT 1", "INSERT INTO t VALUES ('\"\\\n\u{1}\u{7f}ü')", ""] {
            let json = serde_json::json!({ "query": sql }).to_string();
            assert!(Batch::cost(sql) > json.len(), "{sql}: {} <= {}", Batch::cost(sql), json.len());
        }
    }
}

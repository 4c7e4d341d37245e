//! `flotilla sql`: the shell, and scripts from `-c`, a file or standard input.
//!
//! Text is cut into statements ([`splitter`]), each goes to the call that takes it ([`classify`]),
//! the statements of a transaction together ([`mod@unit`]), other writes of a script in batches ([`script`]), and what comes back is printed ([`session`]).
//! [`shell`] reads lines from a terminal, [`dot`] carries out the shell's own commands.
//!
//! A script means what it means to `sqlite3 -bail`: it stops at its first error, with exit code 1, and says which
//! line that was; with `--keep-going` it goes on, as `sqlite3` does. BEGIN, COMMIT, ROLLBACK, savepoints and the
//! PRAGMAs `foreign_keys` and `defer_foreign_keys` are honoured. The difference that stays: without such a PRAGMA
//! foreign keys are enforced, which the `sqlite3` shell does not do unless it is told.

mod classify;
mod dot;
mod load;
mod loading;
mod script;
mod session;
mod shell;
mod splitter;
mod unit;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use self::script::Source;
use self::session::{Session, Style};
use super::output::Mode;
use super::{CommandError, Endpoint, finish};

/// Run SQL: an interactive shell, commands, or a script
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flotilla sql                                  a shell; .help lists its commands
  flotilla sql -c \"SELECT count(*) FROM users\"
  flotilla sql --json -c \"SELECT * FROM users WHERE id = 456\"
  sqlite3 old.db .dump | flotilla sql           load a database
  flotilla sql < migration.sql                  stops at the first error; BEGIN … COMMIT is a transaction

Exit code: 0 every statement worked, 1 some statement failed, 2 wrong usage.")]
pub struct SqlArgs {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Run this and exit; may be given several times
    #[arg(short = 'c', long = "command", value_name = "SQL", conflicts_with = "file")]
    commands: Vec<String>,
    /// Print rows as JSON: one array of objects per statement
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print rows as CSV with a header line
    #[arg(long)]
    csv: bool,
    /// How fresh reads are
    #[arg(long, value_enum, value_name = "LEVEL")]
    level: Option<Level>,
    /// Stop at the first error: what scripts and commands do anyway
    #[arg(long, visible_alias = "stop-on-error")]
    bail: bool,
    /// Go on after an error; the exit code is 1 all the same. Statements then run faster, several at a time
    #[arg(long, conflicts_with = "bail")]
    keep_going: bool,
    /// Script to run; `-` is standard input, which is also the default when it is no terminal
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// How fresh a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Sees every write acknowledged before it began
    Linearizable,
    /// The same while clocks run evenly, without asking the other replicas
    Lease,
    /// Whatever one replica has applied
    None,
}

impl Level {
    /// As in the API's `level` parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::None => "none",
        }
    }

    /// The path of a read at this level.
    pub fn query_path(level: Option<Self>) -> String {
        match level {
            Some(level) => format!("/query?level={}", level.as_str()),
            None => "/query".to_owned(),
        }
    }
}

/// Runs `flotilla sql`.
pub async fn run(args: SqlArgs) -> ExitCode {
    finish(run_inner(args).await)
}

async fn run_inner(args: SqlArgs) -> Result<(), CommandError> {
    let mode = match (args.json, args.csv) {
        (true, _) => Mode::Json,
        (_, true) => Mode::Csv,
        _ => Mode::Table,
    };
    let mut session = Session::new(args.endpoint.client(), mode, args.level);
    session.bail = !args.keep_going;
    if !args.commands.is_empty() {
        session.style = Style::Command;
        for text in args.commands {
            if script::run(&mut session, Source::text(text)).await?.is_stop() {
                break;
            }
        }
        return session.verdict();
    }
    let source = match args.file {
        Some(path) if path.as_os_str() != "-" => Source::file(&path).await?,
        None if std::io::stdin().is_terminal() => {
            // A person sees each error, and goes on.
            session.bail = false;
            return shell::run(session).await;
        }
        _ => Source::stdin()?,
    };
    session.style = Style::Script;
    script::run(&mut session, source).await?;
    session.print_totals();
    session.verdict()
}

#[cfg(test)]
mod tests;

//! The interactive shell: lines from a terminal, with history, until `.quit` or Ctrl-D.

use std::path::PathBuf;

use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::classify;
use super::dot::{self, Flow};
use super::session::Session;
use super::splitter::{Piece, Splitter};
use crate::commands::{CommandError, call_once, parse, status};
use crate::http_client::Call;

const PROMPT: &str = "flotilla> ";
const PROMPT_MORE: &str = "     ...> ";
/// Kept between sessions.
const MAX_HISTORY_ENTRIES: usize = 10_000;

/// Runs the shell. Failed statements do not fail the command: a person saw them.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn run(mut session: Session) -> Result<(), CommandError> {
    let terminal = |error: ReadlineError| CommandError::Failed(format!("the terminal: {error}"));
    let config = Config::builder()
        .max_history_size(MAX_HISTORY_ENTRIES)
        .and_then(|builder| builder.history_ignore_dups(true))
        .map_err(terminal)?
        .auto_add_history(false)
        .build();
    let mut editor = DefaultEditor::with_config(config).map_err(terminal)?;
    let history = history_path();
    if let Some(path) = &history {
        // No history yet is no error; one that cannot be read is not worth a word either.
        let _ = editor.load_history(path);
    }
    greet(&mut session).await;
    let mut splitter = Splitter::default();
    let mut typed = String::new();
    loop {
        let prompt = if splitter.is_between_statements() { PROMPT } else { PROMPT_MORE };
        let (returned, line) = read_line(editor, prompt).await?;
        editor = returned;
        match line {
            Ok(line) => {
                typed.push_str(&line);
                let mut pieces = Vec::new();
                if let Err(error) = splitter.feed(format!("{line}\n").as_bytes(), &mut pieces) {
                    eprintln!("error[incomplete]: {error}");
                    splitter = Splitter::default();
                }
                match splitter.is_between_statements() {
                    true => remember(&mut editor, history.as_ref(), std::mem::take(&mut typed)),
                    false => typed.push('\n'),
                }
                for piece in pieces {
                    if run_piece(&mut session, piece).await?.is_stop() {
                        return Ok(());
                    }
                }
            }
            Err(ReadlineError::Interrupted) => {
                splitter = Splitter::default();
                typed.clear();
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(terminal(error)),
        }
    }
}

/// Reads a line on a thread that may block.
async fn read_line(
    mut editor: DefaultEditor,
    prompt: &'static str,
) -> Result<(DefaultEditor, rustyline::Result<String>), CommandError> {
    tokio::task::spawn_blocking(move || {
        let line = editor.readline(prompt);
        (editor, line)
    })
    .await
    .map_err(|error| CommandError::Failed(format!("the line editor stopped: {error}")))
}

/// Runs a statement or command; Ctrl-C stops waiting for it.
async fn run_piece(session: &mut Session, piece: Piece) -> Result<Flow, CommandError> {
    let work = async {
        match &piece {
            Piece::Dot(command) => dot::run(session, command).await,
            Piece::Statement(statement) => {
                let kind = classify::kind(&statement.text);
                session.run_alone(statement, kind).await.map(|()| Flow::Continue)
            }
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\nno longer waiting; a write may or may not have been executed");
            return Ok(Flow::Continue);
        }
    };
    match outcome {
        Ok(flow) => Ok(flow),
        Err(CommandError::Reported) => Ok(Flow::Continue),
        Err(error) => {
            eprintln!("{error}");
            Ok(Flow::Continue)
        }
    }
}

/// One line about the cluster, so that a wrong address shows at once.
async fn greet(session: &mut Session) {
    let url = session.client.base().clone();
    let asked = async {
        let reply = call_once(&mut session.client, &Call::get("/status")).await?;
        parse::<status::Status>(&reply)
    };
    match asked.await {
        Ok(status) => eprintln!("connected to {url}: {}", status::one_line(&status)),
        Err(error) => eprintln!("{error}"),
    }
    eprintln!("type .help for help; statements end with a semicolon");
}

fn remember(editor: &mut DefaultEditor, path: Option<&PathBuf>, text: String) {
    if text.trim().is_empty() || !editor.add_history_entry(text).unwrap_or(false) {
        return;
    }
    let Some(path) = path else { return };
    // Appended at once: another shell, or a crash of this one, loses nothing. A read-only home is
    // no reason to refuse statements.
    if let Some(folder) = path.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = editor.append_history(path);
}

/// `$XDG_STATE_HOME/flotilla/history`, by default `~/.local/state/flotilla/history`
/// (XDG Base Directory Specification).
fn history_path() -> Option<PathBuf> {
    history_path_in(std::env::var_os("XDG_STATE_HOME").map(PathBuf::from), std::env::home_dir())
}

fn history_path_in(state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let state = state_home.filter(|path| path.is_absolute()).or_else(|| home.map(|home| home.join(".local/state")))?;
    Some(state.join("flotilla/history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The specification's default, and that it ignores relative paths.
    #[test]
    fn history() {
        let path = |state: Option<&str>| history_path_in(state.map(Into::into), Some("/home/a".into())).unwrap();
        assert_eq!(path(Some("/state")), PathBuf::from("/state/flotilla/history"));
        assert_eq!(path(None), PathBuf::from("/home/a/.local/state/flotilla/history"));
        assert_eq!(path(Some("x")), path(None));
        assert_eq!(history_path_in(None, None), None);
    }
}

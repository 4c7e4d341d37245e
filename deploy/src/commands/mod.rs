//! The subcommands of `flotilla`: servers ([`node`], [`proxy`], [`dev`]) and commands that talk to a
//! running cluster, and what they share.
//!
//! Each module has its arguments (`XArgs`, whose doc comments are the help) and `run(args)`, which
//! prints, and returns the process's exit code: 0 it worked, 1 it failed, 2 it was called wrongly.
//! The commands see a cluster only through its HTTP API, by [`crate::http_client`].

pub mod admin;
pub mod bench;
pub mod dev;
pub mod duration;
pub mod node;
pub mod output;
pub mod proxy;
pub mod sql;
pub mod status;

#[cfg(test)]
mod test_server;

use std::fmt;
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use crate::http_client::{ApiError, BaseUrl, Call, Client, HttpError, Reply};

/// Which cluster to talk to.
#[derive(Clone, Debug, clap::Args)]
pub struct Endpoint {
    /// Address of a proxy, or of a node that runs one
    #[arg(long, global = true, env = "FLOTILLA_URL", default_value = "http://127.0.0.1:11000", value_name = "URL")]
    pub url: BaseUrl,
}

impl Endpoint {
    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.url.clone())
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum CommandError {
    /// It was called wrongly: exit code 2.
    Usage(String),
    /// The cluster refused, or could not: exit code 1.
    Api(ApiError),
    /// The cluster was not heard: exit code 1.
    Http(BaseUrl, HttpError),
    /// Anything else that went wrong: exit code 1.
    Failed(String),
    /// It was reported already, line by line: exit code 1.
    Reported,
}

impl CommandError {
    /// A local file or terminal failed.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }

    /// 2 for wrong usage, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Api(_) | Self::Http(..) | Self::Failed(_) | Self::Reported => 1,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => write!(f, "error[usage]: {why}"),
            Self::Api(error) => error.fmt(f),
            Self::Http(url, error @ HttpError::Connect(_)) => write!(
                f,
                "error[connection]: {url}: {error}\nhint: start a cluster with `flotilla dev`, or name its proxy with --url or FLOTILLA_URL"
            ),
            Self::Http(url, error) => write!(f, "error[connection]: {url}: {error}"),
            Self::Failed(why) => write!(f, "error: {why}"),
            Self::Reported => Ok(()),
        }
    }
}

/// Prints what went wrong and gives the exit code.
pub fn finish(result: Result<(), CommandError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CommandError::Reported) {
                eprintln!("{error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// Sends a call, repeating what is safe to repeat, and turns a failing status into an error.
pub(crate) async fn call(client: &mut Client, call: &Call) -> Result<Reply, CommandError> {
    let mut told = false;
    let outcome = client
        .send_retrying(call, |why, _| {
            if !std::mem::replace(&mut told, true) {
                eprintln!("{why}; trying again");
            }
        })
        .await;
    finish_call(client, outcome)
}

/// Sends a call once: for state that is shown as it is now.
pub(crate) async fn call_once(client: &mut Client, call: &Call) -> Result<Reply, CommandError> {
    let outcome = client.send(call).await;
    finish_call(client, outcome)
}

fn finish_call(client: &Client, outcome: Result<Reply, HttpError>) -> Result<Reply, CommandError> {
    let reply = outcome.map_err(|error| CommandError::Http(client.base().clone(), error))?;
    match reply.error() {
        Some(error) => Err(CommandError::Api(error)),
        None => Ok(reply),
    }
}

/// Reads a reply's JSON.
pub(crate) fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, CommandError> {
    serde_json::from_slice(&reply.body).map_err(|error| {
        CommandError::Failed(format!(
            "the answer is not what this version expects ({error}); is this a flotilla proxy or node?"
        ))
    })
}

/// Waits for SIGTERM or SIGINT.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        // Without handlers the signals end the process at once, which is safe, only less polite.
        _ => return std::future::pending().await,
    };
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
}

//! Follows a job to its end.
//!
//! A job runs in the cluster whether or not anyone watches: Ctrl-C here stops the watching only.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value as Json;

use crate::commands::status::Job;
use crate::commands::{CommandError, call, output, parse};
use crate::http_client::{Call, Client, percent_encode};

/// Often enough for a person, rare enough for the registry.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The job's id in the reply that started it: `{"job":"7"}`.
pub fn id_in(reply: &Json) -> Option<String> {
    reply.get("job").filter(|id| id.is_string() || id.is_number()).map(output::plain)
}

/// Ends a command whose reply may name a job: waits for it, or says its id, or says `done`.
///
/// # Errors
/// As [`follow`].
pub async fn conclude(client: &mut Client, reply: &Json, wait: bool, done: &str) -> Result<(), CommandError> {
    if let Some(id) = id_in(reply) {
        if !wait {
            println!("job {id}");
            return Ok(());
        }
        follow(client, &id).await?;
    }
    println!("{done}");
    Ok(())
}

/// Waits for a job, with a bar on a terminal and a line per step elsewhere.
///
/// # Errors
/// When the job failed or was cancelled, or the cluster no longer answers.
pub async fn follow(client: &mut Client, id: &str) -> Result<(), CommandError> {
    let bar = ProgressBar::new(100);
    bar.set_style(
        ProgressStyle::with_template("{prefix} [{bar:32}] {percent}% {msg}").expect("the template is a constant"),
    );
    bar.set_prefix(format!("job {id}"));
    let on_terminal = std::io::stderr().is_terminal();
    let request = Call::get(format!("/job/{}", percent_encode(id)));
    let mut last = String::new();
    loop {
        let reply: Json = parse(&call(client, &request).await?)?;
        let amount = amount(&reply);
        let job: Job = serde_json::from_value(reply).map_err(|error| CommandError::Failed(error.to_string()))?;
        let step = output::plain(&job.step);
        if on_terminal {
            bar.set_position(job.percent.unwrap_or(0.0).clamp(0.0, 100.0) as u64);
            bar.set_message(format!("{step}{amount}"));
        } else {
            let line = format!("job {id}: {} {:.0}% {step}{amount}", job.state, job.percent.unwrap_or(0.0));
            if line != last {
                eprintln!("{}", line.trim_end());
                last = line;
            }
        }
        if let Some(outcome) = outcome(id, &job) {
            bar.finish_and_clear();
            return outcome;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Of a job that moves slots: how much has moved, how fast, and for how long it may go on.
fn amount(job: &Json) -> String {
    let number = |name: &str| job.get(name).and_then(Json::as_u64);
    let Some(moved) = number("bytes_moved").filter(|_| job["state"] == "running") else { return String::new() };
    let mut text = format!(", {}", HumanBytes(moved));
    if let Some(left) = number("bytes_left") {
        text += &format!(" of {}", HumanBytes(moved + left));
    }
    if let Some(rate) = number("bytes_per_second").filter(|rate| *rate > 0) {
        text += &format!(", {}/s", HumanBytes(rate));
    }
    if let Some(seconds) = number("seconds_left") {
        text += &format!(", {seconds} s left");
    }
    text
}

/// Has it ended, and how?
fn outcome(id: &str, job: &Job) -> Option<Result<(), CommandError>> {
    match job.state.as_str() {
        "done" => Some(Ok(())),
        "failed" | "cancelled" => {
            let why = match job.error.get("message").unwrap_or(&job.error) {
                Json::Null => String::new(),
                why => format!(": {}", output::plain(why)),
            };
            Some(Err(CommandError::Failed(format!("job {id} {}{why}", job.state))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Running and paused jobs are waited for; a failure keeps its reason, in either form.
    #[test]
    fn outcomes() {
        let ended = |json: &str| outcome("7", &serde_json::from_str(json).unwrap());
        assert!(ended(r#"{"state":"running"}"#).is_none() && ended(r#"{"state":"paused"}"#).is_none());
        assert!(matches!(ended(r#"{"state":"done"}"#), Some(Ok(()))));
        for error in [r#""disk full""#, r#"{"code":"storage","message":"disk full"}"#] {
            let job = format!(r#"{{"state":"failed","error":{error}}}"#);
            let Some(Err(why)) = ended(&job) else { panic!("{job}") };
            assert_eq!(why.to_string(), "error: job 7 failed: disk full");
        }
    }

    /// What has moved is told with what is left, where that is known.
    #[test]
    fn amounts() {
        let amount = |json: &str| amount(&serde_json::from_str(json).unwrap());
        let known =
            r#"{"state":"running","bytes_moved":1024,"bytes_left":3072,"bytes_per_second":512,"seconds_left":6}"#;
        assert_eq!(amount(known), ", 1.00 KiB of 4.00 KiB, 512 B/s, 6 s left");
        assert_eq!(amount(r#"{"state":"running","bytes_moved":0,"bytes_left":null,"bytes_per_second":0}"#), ", 0 B");
        assert_eq!(amount(r#"{"state":"running","step":"waiting"}"#), "");
        assert_eq!(amount(r#"{"state":"done","bytes_moved":10}"#), "");
    }

    /// Ids come as texts; a reply without one started no job.
    #[test]
    fn ids() {
        assert_eq!(id_in(&serde_json::json!({"job": "7"})).as_deref(), Some("7"));
        assert_eq!(id_in(&serde_json::json!({"job": 7})).as_deref(), Some("7"));
        assert_eq!(id_in(&serde_json::json!({"registered": true})), None);
    }
}

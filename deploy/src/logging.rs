//! The log: on stderr, as text for people or JSON for collectors.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts it. Without a level, `RUST_LOG` counts, then `default`.
///
/// # Errors
/// The setting that cannot be, by name.
pub fn start(level: Option<&str>, format: Option<&str>, default: &str) -> Result<(), String> {
    let filter = match level {
        Some(level) => EnvFilter::try_new(level).map_err(|error| format!("setting `log-level`: {error}"))?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default)),
    };
    let quieted = match level {
        // openraft tells of each vote and membership change at `info`; that is its own debugging.
        Some(level) if level.contains("openraft") => filter,
        // Its complaints about messages to a replica that has just been stopped are noise.
        _ => filter
            .add_directive("openraft=error".parse().expect("a directive"))
            .add_directive("openraft::raft::raft_inner=off".parse().expect("a directive"))
            .add_directive("openraft::raft::stream_append=off".parse().expect("a directive")),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(quieted).with_writer(std::io::stderr);
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    match format.unwrap_or("text") {
        "text" => builder.init(),
        "json" => builder.json().init(),
        other => return Err(format!("setting `log-format`: it is text or json, not `{other}`")),
    }
    Ok(())
}

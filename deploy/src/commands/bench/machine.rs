//! The machine that a figure comes from: without it no figure means anything.
//!
//! Input: `/proc`, and for a cluster that was started here the disk under its folder, whose sync is timed
//! before anything else writes there. Output: JSON for the report.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

/// Syncs that are timed at most: enough for a percentile.
const SYNCS: usize = 200;

/// And for at most this long: a slow disk shall not hold up the run.
const SYNC_TIME: Duration = Duration::from_secs(1);

/// Bytes of each write: what a log writes for a small batch.
const SYNC_BYTES: usize = 4096;

/// A sync that takes less than this did not reach a disk.
const NO_DISK_US: u64 = 15;

/// What the machine is; with `folder`, how long a sync takes there.
pub fn describe(folder: Option<&Path>) -> Json {
    let first = |path: &str, prefix: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(prefix))
            .map(|rest| rest.trim_matches([' ', '\t', ':']).to_owned())
    };
    let memory_kib = first("/proc/meminfo", "MemTotal:").and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
    let sync = folder.and_then(|folder| sync_us(folder).ok());
    json!({
        "os": std::env::consts::OS,
        "kernel": first("/proc/sys/kernel/osrelease", ""),
        "architecture": std::env::consts::ARCH,
        "processor": first("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().ok().map(usize::from),
        "memory_bytes": memory_kib.map(|kib| kib << 10),
        "load_average": first("/proc/loadavg", "").and_then(|load| load.split(' ').next()?.parse::<f64>().ok()),
        "sync_us": sync.as_ref().map(|us| json!({ "p50": us[us.len() / 2], "p99": us[us.len() * 99 / 100] })),
        "sync_reaches_disk": sync.as_ref().map(|us| us[us.len() / 2] >= NO_DISK_US),
    })
}

/// Times appends of [`SYNC_BYTES`], each with its `fdatasync`, in microseconds, sorted; never empty.
fn sync_us(folder: &Path) -> std::io::Result<Vec<u64>> {
    let path = folder.join("sync-test");
    let mut file = File::create(&path)?;
    // The log writes to files of full length: so does this, as a longer file costs a second write.
    file.write_all(&vec![0; SYNC_BYTES * SYNCS])?;
    file.sync_all()?;
    let mut file = File::options().write(true).open(&path)?;
    let (start, mut took) = (Instant::now(), vec![]);
    while took.len() < SYNCS && start.elapsed() < SYNC_TIME {
        let before = Instant::now();
        file.write_all(&[took.len() as u8; SYNC_BYTES])?;
        file.sync_data()?;
        took.push(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    fs::remove_file(path)?;
    took.sort_unstable();
    Ok(took)
}

/// The same for people, in one line.
pub fn text(machine: &Json) -> String {
    let mut words = vec![];
    let mut word = |value: &Json, unit: &str| {
        if !value.is_null() {
            words.push(format!("{}{unit}", crate::commands::output::plain(value)));
        }
    };
    word(&machine["cores"], " cores");
    word(&machine["processor"], "");
    word(&json!(machine["memory_bytes"].as_u64().map(|bytes| bytes >> 20)), " MiB");
    word(&machine["os"], "");
    word(&machine["kernel"], "");
    word(&machine["sync_us"]["p50"], " µs per disk sync (median)");
    if machine["sync_reaches_disk"] == false {
        words.push("which no disk takes so quickly: choose another --folder".to_owned());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a report needs is found here, and a sync is timed.
    #[test]
    fn this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let machine = describe(Some(folder.path()));
        assert!(machine["cores"].as_u64().unwrap() >= 1);
        assert!(machine["sync_us"]["p99"].as_u64() >= machine["sync_us"]["p50"].as_u64());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let text = text(&machine);
        assert!(text.contains(" cores") && text.contains("per disk sync"), "{text}");
    }
}

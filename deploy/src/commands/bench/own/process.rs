//! One process of the cluster, and what the kernel says of its time and memory (Linux's `/proc`; on other
//! systems these figures are missing).

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::commands::CommandError;

/// Ticks per second of the times in `/proc/PID/stat`: `USER_HZ`, which is 100 on all systems in use.
const TICKS_PER_SECOND: f64 = 100.0;

/// Lines of a log that are shown when a process has ended.
const SHOWN_LINES: usize = 20;

/// A process; it is killed when this is dropped.
pub struct Process {
    name: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Child,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time since its start, of all its threads.
    pub cpu: Duration,
    /// Memory that it holds now.
    pub rss_bytes: u64,
    /// The most that it has held since its start or [`Process::forget_peak`].
    pub peak_rss_bytes: u64,
}

impl Process {
    /// Starts this program with these arguments; all that it prints goes to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, arguments: &[String], log: PathBuf) -> Result<Self, CommandError> {
        let child =
            Self::spawn(arguments, &log).map_err(|error| CommandError::io(format!("cannot start {name}"), &error))?;
        Ok(Self { name: name.to_owned(), arguments: arguments.to_vec(), log, child })
    }

    fn spawn(arguments: &[String], log: &Path) -> io::Result<Child> {
        let out = File::create(log)?;
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // What is set for this command is not meant for the servers.
        for variable in ["FLOTILLA_META", "FLOTILLA_HTTP"] {
            command.env_remove(variable);
        }
        command.process_group(0).spawn()
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Starts it again, as it was started first; its log begins anew.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> Result<(), CommandError> {
        self.kill();
        let started = Self::spawn(&self.arguments, &self.log);
        self.child = started.map_err(|error| CommandError::io(format!("cannot start {}", self.name), &error))?;
        Ok(())
    }

    /// Its name in reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Does it still run?
    ///
    /// # Errors
    /// That it does not, with the end of its log.
    pub fn check(&mut self) -> Result<(), CommandError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
                Err(CommandError::Failed(format!("{} has ended with {status}\n{end}", self.name)))
            }
            Err(error) => Err(CommandError::io(&self.name, &error)),
        }
    }

    /// What it has used so far; nothing where the kernel does not tell.
    pub fn usage(&self) -> Usage {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.id())).unwrap_or_default();
        usage(&read("stat"), &read("status"))
    }

    /// Lets the peak start anew at what it holds now.
    pub fn forget_peak(&self) {
        // 5 resets the peak (proc(5), clear_refs). Without it the peak is that since the start.
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads `/proc/PID/stat` and `/proc/PID/status` (proc(5)).
fn usage(stat: &str, status: &str) -> Usage {
    // Behind the name, which may hold anything but is in brackets: fields 14 and 15 are 11 and 12 there.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    Usage {
        cpu: Duration::from_secs_f64((ticks(11) + ticks(12)) as f64 / TICKS_PER_SECOND),
        rss_bytes: kib("VmRSS:") << 10,
        peak_rss_bytes: kib("VmHWM:") << 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's two texts, with a name that would mislead; nothing to read is nothing used.
    #[test]
    fn what_the_kernel_says() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 200";
        let status = "Name:\ta\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let wanted = Usage { cpu: Duration::from_secs(3), rss_bytes: 1 << 20, peak_rss_bytes: 2 << 20 };
        assert_eq!(usage(stat, status), wanted);
        assert_eq!(usage("", ""), Usage::default());
    }
}

//! One process of the cluster: started, signalled and started again with the same arguments.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::binary::flotilla;
use super::wait::eventually;

/// Lines of a log that are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// A process and the file that takes all it prints.
pub struct Process {
    name: String,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Describes a process; nothing runs yet.
    pub fn new(name: impl Into<String>, args: Vec<String>, log: PathBuf) -> Self {
        Self { name: name.into(), args, log, child: None }
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let mut log = self.open_log();
        writeln!(log, "--- start: flotilla {}", self.args.join(" ")).expect("the log can be written");
        let both = log.try_clone().expect("a file can be shared");
        let child = Command::new(flotilla())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(both)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    fn open_log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(&self.log).expect("the log can be opened")
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its arguments; changes count from the next start.
    pub fn args_mut(&mut self) -> &mut Vec<String> {
        &mut self.args
    }

    /// Its id.
    ///
    /// # Panics
    /// When it was not started.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The most memory that it has held at a time, in KiB.
    ///
    /// # Panics
    /// When it does not run.
    pub fn peak_memory_kib(&self) -> u64 {
        let id = self.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("own children can be looked at");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it holds memory");
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }

    /// Lets [`Self::peak_memory_kib`] start anew at what it holds now.
    ///
    /// # Panics
    /// When it does not run.
    pub fn forget_peak(&self) {
        // 5 resets the peak (proc(5), clear_refs).
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").expect("own children can be looked at");
    }

    /// Has it been started, and not ended since?
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().expect("own children can be asked").is_none(),
            None => false,
        }
    }

    /// Sends a signal; SIGSTOP and SIGCONT pause it and let it go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.is_running(), "{} does not run", self.name);
        let id = self.child.as_ref().map(|child| child.id() as i32).and_then(Pid::from_raw);
        kill_process(id.expect("processes have ids"), signal).expect("own children can be signalled");
    }

    /// Ends it as a crash would, with SIGKILL. Nothing happens if it has ended.
    pub fn kill(&mut self) {
        self.kill_only();
        self.reap();
    }

    /// Sends SIGKILL without waiting for the end, so that many can be killed at one moment.
    pub fn kill_only(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            child.kill().ok();
        }
    }

    /// Waits for the end of a process that was killed.
    pub fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.wait().ok();
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not within `limit`.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name.clone();
        let child = self.child.as_mut().expect("it was started");
        let status = eventually(&format!("{name} ends"), limit, async || {
            child.try_wait().expect("own children can be asked").ok_or_else(|| "it runs".to_owned())
        })
        .await;
        self.child = None;
        status
    }

    /// All that it has printed, over all its starts.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Prints the end of its log.
    pub fn show_log(&self) {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        eprintln!("--- end of the log of {}", self.name);
        for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
            eprintln!("{line}");
        }
    }

    /// Where its log is.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

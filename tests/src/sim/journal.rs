//! What happened, in order: for people who look for a bug, and to tell whether two runs were the same.
//!
//! Input: one line per event. Output: a hash over all lines with their virtual times, the last lines,
//! and what was found wrong. Lines hold nothing that differs between two runs of one seed (no paths,
//! no addresses, no real time).

use std::collections::VecDeque;
use std::fmt;

/// Lines kept for the report of a failure.
const TAIL_LINES: usize = 400;

/// After so many findings the rest says nothing new.
const MAX_VIOLATIONS: usize = 20;

/// The record of one run.
pub struct Journal {
    hash: u64,
    lines: u64,
    tail: VecDeque<String>,
    print: bool,
    violations: Vec<String>,
}

impl Journal {
    /// An empty record; `print` shows every line as it is written.
    pub fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: 0, tail: VecDeque::new(), print, violations: Vec::new() }
    }

    /// Notes an event at a virtual time.
    pub fn note(&mut self, at_us: u64, event: fmt::Arguments<'_>) {
        let line = format!("{:>9}.{:03} ms  {event}", at_us / 1000, at_us % 1000);
        self.hash = hash_on(self.hash, line.as_bytes());
        self.lines += 1;
        if self.print {
            println!("{line}");
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// Notes that a rule was broken.
    pub fn violation(&mut self, at_us: u64, what: fmt::Arguments<'_>) {
        self.note(at_us, format_args!("VIOLATION: {what}"));
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(format!("at {} ms: {what}", at_us / 1000));
        }
    }

    /// What was found wrong.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Hash of all lines, and their number.
    pub fn fingerprint(&self) -> (u64, u64) {
        (self.hash, self.lines)
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }
}

/// FNV-1a, continued.
pub fn hash_on(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

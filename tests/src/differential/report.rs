//! What a run came to: how much was equal, what was refused, and where Flotilla differs.

use std::collections::BTreeMap;
use std::fmt;

use super::statement::Kind;

/// Statements with several right answers that are shown.
const SHOWN_AMBIGUOUS: usize = 10;

/// A difference.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How many shards the cluster has.
    pub shards: u32,
    /// What the statement is about.
    pub kind: Kind,
    /// How the results differ.
    pub what: String,
    /// Statements that show it.
    pub script: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shards, kind, what, script } = self;
        writeln!(f, "\n--- {shards} shards, {}: {what}\n{script}", kind.name())
    }
}

/// Counts of one kind.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Statements compared.
    pub total: u64,
    /// Equal ones.
    pub same: u64,
    /// Refused ones, by code.
    pub refused: BTreeMap<String, u64>,
}

/// What a run, or several, came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By kind and number of shards.
    pub counts: BTreeMap<(Kind, u32), Counts>,
    /// Differences.
    pub failures: Vec<Failure>,
    /// Statements that were left out, because one SQLite alone gives two answers to them.
    pub ambiguous: Vec<String>,
}

impl Report {
    /// Takes in another.
    pub fn add(&mut self, other: Self) {
        for (key, counts) in other.counts {
            let mine = self.counts.entry(key).or_default();
            mine.total += counts.total;
            mine.same += counts.same;
            for (code, count) in counts.refused {
                *mine.refused.entry(code).or_default() += count;
            }
        }
        self.failures.extend(other.failures);
        self.ambiguous.extend(other.ambiguous);
    }

    /// Statements compared on clusters of so many shards.
    pub fn compared(&self, shards: u32) -> u64 {
        self.counts.iter().filter(|((_, of), _)| *of == shards).map(|(_, counts)| counts.total).sum()
    }

    /// Of the statements of a kind, how many of 1000 were refused on clusters of several shards.
    pub fn refused_permille(&self, kind: Kind) -> u64 {
        let of_kind = || self.counts.iter().filter(|((of, shards), _)| *of == kind && *shards > 1);
        let total: u64 = of_kind().map(|(_, counts)| counts.total).sum();
        let refused: u64 = of_kind().flat_map(|(_, counts)| counts.refused.values()).sum();
        refused * 1000 / total.max(1)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = Counts::default();
        let mut shards: Vec<u32> = self.counts.keys().map(|(_, shards)| *shards).collect();
        shards.sort_unstable();
        shards.dedup();
        write!(f, "{:<18}", "kind")?;
        for shards in &shards {
            write!(f, "{:>16}", format!("{shards} shards"))?;
        }
        writeln!(f, "  refused by")?;
        for kind in Kind::ALL {
            let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
            write!(f, "{:<18}", kind.name())?;
            for shards in &shards {
                let counts = self.counts.get(&(*kind, *shards)).unwrap_or(&none);
                let refused: u64 = counts.refused.values().sum();
                write!(f, "{:>16}", format!("{refused} of {}", counts.total))?;
                for (code, count) in &counts.refused {
                    *codes.entry(code).or_default() += count;
                }
            }
            let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
            writeln!(f, "  {}", codes.join(", "))?;
        }
        self.failures.iter().try_for_each(|failure| write!(f, "{failure}"))?;
        for statement in self.ambiguous.iter().take(SHOWN_AMBIGUOUS) {
            writeln!(f, "ambiguous: {statement}")?;
        }
        writeln!(f, "{} differences, {} ambiguous statements left out", self.failures.len(), self.ambiguous.len())
    }
}

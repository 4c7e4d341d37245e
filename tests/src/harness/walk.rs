//! Walks along the steps of a job: nodes that wait where they are asked to, and the choice of cases.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use flotilla_shared::ids::RequestId;
use tempfile::TempDir;

use super::wait::{PATIENCE, eventually};

/// The folder by which drivers of jobs are made to wait (`--test-pauses`).
pub struct Pauses(TempDir);

impl Default for Pauses {
    fn default() -> Self {
        Self::new()
    }
}

impl Pauses {
    /// An empty folder: nobody waits.
    ///
    /// # Panics
    /// When there is no place for it.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// The flags that tell a node of it.
    pub fn flags(&self) -> Vec<String> {
        vec!["--test-pauses".to_owned(), self.0.path().display().to_string()]
    }

    fn reached(&self, place: &str) -> PathBuf {
        self.0.path().join(format!("{place}.reached"))
    }

    /// Lets the next driver that comes to a place wait there.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn ask(&self, place: &str) {
        fs::write(self.0.path().join(place), "").expect("the folder can be written");
    }

    /// Waits until a driver waits there.
    ///
    /// # Panics
    /// When none comes within [`PATIENCE`].
    pub async fn wait(&self, place: &str) {
        let reached = self.reached(place);
        eventually(&format!("the job waits {place}"), PATIENCE, async || match reached.exists() {
            true => Ok(()),
            false => Err(format!("passed so far: {:?}", self.passed())),
        })
        .await;
    }

    /// Lets the driver that waits there go on.
    ///
    /// # Panics
    /// When none waits.
    pub fn go_on(&self, place: &str) {
        fs::remove_file(self.reached(place)).expect("the job waits");
    }

    /// Places that drivers have come to.
    pub fn passed(&self) -> BTreeSet<String> {
        self.written().lines().map(str::to_owned).collect()
    }

    /// How often drivers have come to a place.
    pub fn times(&self, place: &str) -> usize {
        self.written().lines().filter(|passed| *passed == place).count()
    }

    fn written(&self) -> String {
        fs::read_to_string(self.0.path().join("passed")).unwrap_or_default()
    }
}

/// The cases to run now: `count` at random, of which it prints the seed; all of them with `FLOTILLA_WALK=all`,
/// those whose name has a part in it with `FLOTILLA_WALK=part`, and those of a seed with `FLOTILLA_SEED=7`.
///
/// # Panics
/// When the seed is not a number.
pub fn chosen<C>(mut all: Vec<C>, name: impl Fn(&C) -> String, count: usize) -> Vec<C> {
    match std::env::var("FLOTILLA_WALK") {
        Ok(part) if part != "all" => all.retain(|case| name(case).contains(&part)),
        Ok(_) => (),
        Err(_) => {
            let given = std::env::var("FLOTILLA_SEED").ok().map(|seed| seed.parse().expect("a number"));
            let seed = given.unwrap_or_else(|| RequestId::random().0 as u16);
            println!("FLOTILLA_SEED={seed}");
            let mut random = u64::from(seed);
            while all.len() > count {
                // Knuth's constants; the high bits are the good ones.
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                all.swap_remove((random >> 33) as usize % all.len());
            }
        }
    }
    all
}

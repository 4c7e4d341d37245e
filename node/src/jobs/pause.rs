//! Places at which the driver of a job can be made to wait, so that a test can kill something just there.
//!
//! Off unless a node is given a folder for it (`--test-pauses`). Each call of a driver has a place
//! before and one behind it: `before-freeze`, `after-freeze`, …, named after the call's own variant, so a
//! new step is a new place at once. Those of jobs that change replicas are `before-member-swap`, …: such a job may
//! be at work beside one that moves slots. A driver that comes to a place
//! 1. writes its name down in the file `passed`,
//! 2. renames the file of that name to `<place>.reached`, if it is there. One driver alone succeeds;
//! 3. then it waits as long as `<place>.reached` is there.

use std::fmt::{self, Debug, Write};
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_shared::error::Error;
use flotilla_shared::ids::GroupId;
use flotilla_shared::moves::{MoveAnswer, MoveQuery, MoveReply, MoveStep};
use flotilla_shared::registry::{MetaCommand, NodeInfo, Registry, ReplicaInfo, Sight};
use flotilla_shared::wire::{GroupMembers, MemberChange, Request};

use super::{membership, rebalance};

/// How often a waiting driver looks for the file.
const LOOK: Duration = Duration::from_millis(5);

/// The file with all places that were passed, one per line.
const PASSED: &str = "passed";

/// What a driver works with, and the folder that says where it waits.
pub(super) struct Pausing<'a, G> {
    pub ground: &'a G,
    pub folder: Option<&'a Path>,
}

impl<G: rebalance::Ground> rebalance::Ground for Pausing<'_, G> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.ground.registry().await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        let name = match &command {
            MetaCommand::Move { change, .. } => self.name(change),
            // What is shown of a job decides nothing.
            _ => None,
        };
        self.around(name, self.ground.meta(command)).await
    }

    async fn step(&self, shard: GroupId, step: MoveStep, patience: Duration) -> Result<MoveReply, Error> {
        self.around(self.name(&step), self.ground.step(shard, step, patience)).await
    }

    async fn ask(&self, shard: GroupId, query: MoveQuery) -> Result<MoveAnswer, Error> {
        self.around(self.name(&query), self.ground.ask(shard, query)).await
    }

    async fn drop_replica(&self, shard: GroupId, replica: ReplicaInfo) -> Result<(), Error> {
        let name = self.folder.map(|_| "dropreplica".to_owned());
        self.around(name, self.ground.drop_replica(shard, replica)).await
    }

    async fn rest(&self, took: Duration) {
        self.ground.rest(took).await;
    }

    async fn wait(&self, time: Duration) {
        self.ground.wait(time).await;
    }

    fn now_us(&self) -> i64 {
        self.ground.now_us()
    }
}

impl<G: membership::Ground> membership::Ground for Pausing<'_, G> {
    async fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.ground.registry().await
    }

    async fn meta(&self, command: MetaCommand) -> Result<(), Error> {
        let name = match &command {
            MetaCommand::Members { step, .. } => self.member_name(step),
            MetaCommand::EndJob { .. } => self.member_name(&command),
            // What is shown of a job decides nothing.
            _ => None,
        };
        self.around(name, self.ground.meta(command)).await
    }

    async fn sight(&self, registry: &Registry) -> Sight {
        self.ground.sight(registry).await
    }

    async fn node(&self, info: &NodeInfo, request: Request) -> Result<(), Error> {
        self.around(self.member_name(&request), self.ground.node(info, request)).await
    }

    async fn change(&self, group: GroupId, change: MemberChange) -> Result<GroupMembers, Error> {
        self.around(self.member_name(&change), self.ground.change(group, change)).await
    }

    async fn hand_over(&self, group: GroupId) -> Result<(), Error> {
        let name = self.folder.map(|_| "member-handover".to_owned());
        self.around(name, self.ground.hand_over(group)).await
    }

    fn now_us(&self) -> i64 {
        self.ground.now_us()
    }

    async fn pause(&self) {
        self.ground.pause().await;
    }
}

impl<G> Pausing<'_, G> {
    fn name(&self, call: &impl Debug) -> Option<String> {
        self.folder.map(|_| variant(call))
    }

    fn member_name(&self, call: &impl Debug) -> Option<String> {
        self.folder.map(|_| format!("member-{}", variant(call)))
    }

    async fn around<T>(&self, name: Option<String>, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let (Some(folder), Some(name)) = (self.folder, name) else { return call.await };
        come_to(folder, &format!("before-{name}")).await;
        let answer = call.await?;
        come_to(folder, &format!("after-{name}")).await;
        Ok(answer)
    }
}

async fn come_to(folder: &Path, place: &str) {
    note(&folder.join(PASSED), place);
    let reached = folder.join(format!("{place}.reached"));
    if fs::rename(folder.join(place), &reached).is_ok() {
        tracing::info!(%place, "the driver of a job waits");
        while reached.exists() {
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn note(path: &Path, place: &str) {
    let written = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| {
        // One write, so that lines of several nodes do not mix.
        std::io::Write::write_all(&mut file, format!("{place}\n").as_bytes())
    });
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "a pause cannot be written down");
    }
}

/// The name of a value's variant, in lower case. What the value holds is not written out.
fn variant(value: &impl Debug) -> String {
    struct Name(String);
    impl Write for Name {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for letter in text.chars() {
                if !letter.is_ascii_alphanumeric() {
                    return Err(fmt::Error);
                }
                self.0.push(letter.to_ascii_lowercase());
            }
            Ok(())
        }
    }
    let mut name = Name(String::new());
    // Ends with an error behind the name.
    write!(name, "{value:?}").ok();
    name.0
}

#[cfg(test)]
mod tests {
    use flotilla_shared::ids::MoveId;

    use super::*;

    /// A driver waits where it was asked to, once; others pass.
    #[tokio::test]
    async fn waits_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(variant(&MoveStep::Freeze { id: MoveId(1) }), "freeze");
        fs::write(folder.path().join("before-freeze"), "").unwrap();
        let other = async {
            let reached = folder.path().join("before-freeze.reached");
            while !reached.exists() {
                tokio::task::yield_now().await;
            }
            come_to(folder.path(), "before-freeze").await;
            come_to(folder.path(), "after-freeze").await;
            fs::remove_file(reached).unwrap();
        };
        let both = async { tokio::join!(come_to(folder.path(), "before-freeze"), other) };
        tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        let passed = fs::read_to_string(folder.path().join(PASSED)).unwrap();
        assert_eq!(passed, "before-freeze\nbefore-freeze\nafter-freeze\n");
    }
}

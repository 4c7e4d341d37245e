//! Steps of jobs that are kept under their job's id on the shard that takes them, so that each runs once, and none
//! runs after its job has ended. `node/src/state/steps.rs` takes them and tells what must hold.

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::{Epoch, JobId, PlacementId, SchemaVersion};
use crate::registry::SlotSet;

/// A step of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStep {
    /// The job.
    pub job: JobId,
    /// What it does.
    pub action: JobAction,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobAction {
    /// Undoes what the job did on this shard, and keeps it from doing anything more here.
    Undo {
        /// The schema version that this makes.
        version: SchemaVersion,
        /// Run only if the job's schema statements ran here.
        sql: Vec<String>,
        /// Once the job has taken this step here it is not undone any more; then nothing changes, and the answer is
        /// [`ShardReply::Ok`](crate::wire::ShardReply::Ok).
        unless: Option<String>,
        /// Why the job fails: the answer to each of its steps from now on.
        why: Error,
    },
    /// Takes slots, unless the shard's version of the placement already is `epoch` or later.
    Take {
        /// The placement.
        placement: PlacementId,
        /// The version that this makes.
        epoch: Epoch,
        /// What the shard owns then.
        slots: SlotSet,
    },
    /// Forgets a placement that has no table any more.
    Forget {
        /// The placement.
        placement: PlacementId,
    },
}

/// The step of a job that runs its schema statements.
pub const SCHEMA_STEP: &str = "schema";

/// The step of a registration that takes a table out of the home placement.
pub const REGISTER_STEP: &str = "register";

/// The step of a write to reference tables.
pub const WRITE_STEP: &str = "write";

/// The step of a job that gives slots of a placement to a shard.
pub fn take_step(placement: PlacementId) -> String {
    format!("take {placement}")
}

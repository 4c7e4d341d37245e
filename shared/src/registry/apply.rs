//! Changes of the registry: pure functions of the registry and one command from the log.

use serde::{Deserialize, Serialize};

use super::{
    Counters, FINISHED_JOBS_KEPT, FINISHED_WRITES_KEPT, Function, HOME, HOME_SHARD, Job, JobKind, JobState, LeaderRule,
    MAX_WAITING_WRITE_BYTES, MAX_WAITING_WRITES, MemberStep, MoveChange, NodeInfo, Placement, ReferenceWrite, Registry,
    ReplicaGoal, ReplicaInfo, SchemaObject, SlotSet, SplitStep, Table,
};
use crate::error::{Code, Error};
use crate::ids::{Epoch, GroupId, JobId, NodeId, PlacementId, ReplicaId, RequestId, SchemaVersion};
use crate::script::{MAX_SCRIPT_BYTES, MAX_SCRIPT_STATEMENTS, MAX_WAITING_SCRIPTS, SCRIPT_RESULTS_KEPT, Script};
use crate::wire::StatementResult;

/// A change of the registry. Each is idempotent or refuses to be applied twice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetaCommand {
    /// First entry of a cluster: its name, nodes and groups.
    Bootstrap {
        /// The cluster's name.
        cluster: u128,
        /// All seed nodes.
        nodes: Vec<(NodeId, NodeInfo)>,
        /// All groups with their first replicas.
        groups: Vec<(GroupId, Vec<ReplicaInfo>)>,
    },
    /// A node starts, joins, or comes back with another address or an empty disk.
    Announce {
        /// The id it asks for; 0: any.
        node: NodeId,
        /// Who it is.
        info: NodeInfo,
    },
    /// Records a job. The same request gets the same job, as long as the registry lists it.
    CreateJob {
        /// Names the request for ever.
        request: RequestId,
        /// What to do.
        kind: JobKind,
    },
    /// Notes what a job is at.
    StepJob {
        /// The job.
        job: JobId,
        /// What it is at.
        step: String,
        /// 0 to 100.
        percent: u8,
        /// What it last stumbled over.
        error: Option<Error>,
    },
    /// Ends a job, with its effect on the registry.
    EndJob {
        /// The job.
        job: JobId,
        /// How it ended.
        state: JobState,
        /// Why it failed.
        error: Option<Error>,
        /// What it changed.
        effects: Vec<Effect>,
        /// What a write answered.
        results: Vec<StatementResult>,
    },
    /// What a job that moves slots records.
    Move {
        /// The job.
        job: JobId,
        /// The change.
        change: MoveChange,
    },
    /// What a job that changes replicas records.
    Members {
        /// The job.
        job: JobId,
        /// The change.
        step: MemberStep,
    },
    /// A node has dropped a replica that was taken out.
    Dropped {
        /// The group.
        group: GroupId,
        /// Its raft id.
        replica: ReplicaId,
    },
    /// A node may have new replicas again; a job that drains it is cancelled.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// Reserves a placement id for a job; the same job gets the same.
    ReservePlacement {
        /// The job.
        job: JobId,
    },
    /// Hands out `count` integer keys for a table, all at least `at_least`.
    ReserveKeys {
        /// The table.
        table: String,
        /// How many.
        count: u32,
        /// The smallest that may be handed out.
        at_least: i64,
    },
    /// Changes who shall lead.
    Leaders(LeaderRule),
    /// What a job that splits ranges records.
    Split {
        /// The job.
        job: JobId,
        /// The change.
        step: SplitStep,
    },
    /// Asks for leave to put in the rows of a table that a job made.
    BeginFill {
        /// The job.
        job: JobId,
    },
    /// They are in.
    EndFill {
        /// The job.
        job: JobId,
        /// What putting them in answered.
        result: StatementResult,
    },
    /// A job is about to change shards: what it relies on from here on. The first record stays.
    BeginJob {
        /// The job.
        job: JobId,
        /// The placement; none: a new one, whose id the answer tells.
        placement: Option<PlacementId>,
        /// The shards.
        shards: Vec<GroupId>,
    },
    /// Ends a job as failed that has not begun.
    GiveUp {
        /// The job.
        job: JobId,
        /// Why.
        error: Error,
    },
}

/// What a finished job changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// The schema of a set of placements is now this.
    Schema {
        /// Placements whose objects are replaced.
        placements: Vec<PlacementId>,
        /// Their objects now.
        objects: Vec<SchemaObject>,
        /// Their tables now.
        tables: Vec<Table>,
    },
    /// A placement is new or changed.
    Placement(Placement),
    /// A shard may hold a placement's tables.
    Holds {
        /// The placement.
        placement: PlacementId,
        /// The shard.
        shard: GroupId,
    },
    /// A table moved to another placement and got a key.
    Register {
        /// The table.
        table: String,
        /// Its placement.
        placement: PlacementId,
        /// Its key: indexes of columns.
        key: Vec<usize>,
    },
    /// A shard raised its ownership version of a placement.
    Epoch {
        /// The placement.
        placement: PlacementId,
        /// The shard.
        shard: GroupId,
        /// Its version now.
        epoch: Epoch,
    },
    /// A node left.
    NodeRemoved(NodeId),
    /// A shard has a copy of a reference placement.
    Copy {
        /// The placement.
        placement: PlacementId,
        /// The shard.
        shard: GroupId,
        /// Its version now.
        epoch: Epoch,
    },
    /// A placement has no table any more, and its shards have forgotten it.
    Forget(PlacementId),
}

/// What a command answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetaReply {
    /// Done.
    Ok,
    /// The job's id.
    Job(JobId),
    /// The node's id, and whether its disk is new to this cluster.
    Node {
        /// Its id.
        node: NodeId,
        /// Its instance was not known under this id.
        fresh: bool,
    },
    /// A placement id.
    Placement(PlacementId),
    /// First of the keys handed out.
    Keys(i64),
}

impl Registry {
    /// Applies one command. `at_us` is the entry's time.
    ///
    /// # Errors
    /// A refusal; the registry is unchanged then.
    pub fn apply(&mut self, at_us: i64, command: MetaCommand) -> Result<MetaReply, Error> {
        let reply = self.change(at_us, command)?;
        self.version += 1;
        Ok(reply)
    }

    pub(super) fn change(&mut self, at_us: i64, command: MetaCommand) -> Result<MetaReply, Error> {
        match command {
            MetaCommand::Bootstrap { cluster, nodes, groups } => self.bootstrap(cluster, nodes, groups),
            MetaCommand::Announce { node, info } => self.announce(node, info),
            MetaCommand::CreateJob { request, kind } => self.create_job(at_us, request, kind),
            MetaCommand::StepJob { job, step, percent, error } => {
                let job = self.running_job(job)?;
                (job.step, job.percent, job.error) = (step, percent, error);
                Ok(MetaReply::Ok)
            }
            MetaCommand::EndJob { job: job_id, state, error, effects, results } => {
                self.check_effects(&effects)?;
                let job = self.running_job(job_id)?;
                if job.progress.as_ref().is_some_and(|progress| progress.is_under_way()) {
                    return Err(Error::new(Code::Conflict, format!("a move of job {} is under way", job.id)));
                }
                if let Some(exchange) = job.members.as_ref().and_then(|members| members.exchange.as_ref()) {
                    return Err(Error::new(Code::Conflict, format!("exchange {} is under way", exchange.id)));
                }
                let founding = job.members.as_ref().and_then(|members| members.founding.as_ref()).map(|f| f.group);
                // A node that is no longer drained may have replicas again.
                let undrained = match &job.kind {
                    JobKind::Replicas { goal: ReplicaGoal::Drain { node }, .. } if state != JobState::Done => {
                        Some(*node)
                    }
                    _ => None,
                };
                if let Some(group) = founding.filter(|group| !self.groups.contains_key(group)) {
                    return Err(Error::new(Code::Conflict, format!("{group} is being made")));
                }
                let job = self.running_job(job_id)?;
                (job.state, job.error, job.ended_us, job.results) = (state, error, at_us, results);
                match &mut job.kind {
                    JobKind::Write(write) => write.statements.clear(),
                    JobKind::Script(script) => script.statements.clear(),
                    _ => (),
                }
                if state == JobState::Done {
                    (job.percent, job.step) = (100, "done".to_owned());
                }
                for effect in effects {
                    self.take_effect(effect);
                }
                if let Some(node) = undrained {
                    self.draining.remove(&node);
                }
                self.forget_old_jobs();
                Ok(MetaReply::Ok)
            }
            MetaCommand::Move { job, change: MoveChange::Wish(wish) }
                if self.jobs.get(&job).is_some_and(|job| job.members.is_some()) =>
            {
                self.change_members(at_us, job, MemberStep::Wish(wish))
            }
            MetaCommand::Move { job, change } => self.change_move(at_us, job, change),
            MetaCommand::Members { job, step } => self.change_members(at_us, job, step),
            MetaCommand::Dropped { group, replica } => {
                self.left.retain(|(of, info)| (*of, info.replica) != (group, replica));
                Ok(MetaReply::Ok)
            }
            MetaCommand::Undrain { node } => self.undrain(node),
            MetaCommand::ReservePlacement { job } => {
                let next = PlacementId(self.counters.placement + 1);
                let reserved = *self.running_job(job)?.placement.get_or_insert(next);
                self.counters.placement = self.counters.placement.max(reserved.0);
                Ok(MetaReply::Placement(reserved))
            }
            MetaCommand::ReserveKeys { table, count, at_least } => self.reserve_keys(&table, count, at_least),
            MetaCommand::Leaders(rule) => self.change_leaders(rule),
            MetaCommand::Split { job, step } => self.change_split(at_us, job, step),
            MetaCommand::BeginFill { job } => self.begin_fill(at_us, job),
            MetaCommand::EndFill { job, result } => self.end_fill(job, result),
            MetaCommand::BeginJob { job, placement, shards } => self.begin_job(job, placement, shards),
            MetaCommand::GiveUp { job, error } => self.give_up(at_us, job, error),
        }
    }

    fn bootstrap(
        &mut self,
        cluster: u128,
        nodes: Vec<(NodeId, NodeInfo)>,
        groups: Vec<(GroupId, Vec<ReplicaInfo>)>,
    ) -> Result<MetaReply, Error> {
        if self.cluster != 0 {
            return match self.cluster == cluster {
                true => Ok(MetaReply::Ok),
                false => Err(Error::new(Code::Conflict, "this registry belongs to another cluster")),
            };
        }
        self.cluster = cluster;
        self.counters = Counters {
            node: nodes.iter().map(|(node, _)| node.0).max().unwrap_or(0),
            replica: groups.iter().flat_map(|(_, list)| list).map(|replica| replica.replica.0).max().unwrap_or(0),
            ..Counters::default()
        };
        self.nodes = nodes.into_iter().collect();
        self.groups = groups.into_iter().collect();
        let home = Placement {
            id: HOME,
            function: Function::Home,
            key: vec![],
            slots: 1,
            shards: vec![HOME_SHARD],
            owned: [(HOME_SHARD, SlotSet::all(1))].into(),
            epochs: [(HOME_SHARD, Epoch(1))].into(),
        };
        self.placements.insert(HOME, home);
        Ok(MetaReply::Ok)
    }

    fn announce(&mut self, node: NodeId, info: NodeInfo) -> Result<MetaReply, Error> {
        if let Some((known, _)) = self.nodes.iter().find(|(_, other)| other.instance == info.instance) {
            let known = *known;
            if self.nodes[&known].removed {
                return Err(Error::new(Code::Conflict, format!("node {known} has left this cluster for good"))
                    .hint("start it with an empty data folder to let it join as a new node"));
            }
            self.nodes.insert(known, info);
            return Ok(MetaReply::Node { node: known, fresh: false });
        }
        let node = if node == NodeId(0) { NodeId(self.counters.node + 1) } else { node };
        self.counters.node = self.counters.node.max(node.0);
        self.nodes.insert(node, info);
        Ok(MetaReply::Node { node, fresh: true })
    }

    fn create_job(&mut self, at_us: i64, request: RequestId, kind: JobKind) -> Result<MetaReply, Error> {
        if let Some(known) = self.jobs.values().find(|job| job.request == request) {
            return Ok(MetaReply::Job(known.id));
        }
        kind.check_lists()?;
        match &kind {
            JobKind::Write(write) => self.check_waiting(write)?,
            JobKind::Script(script) => self.check_waiting_scripts(script)?,
            _ => (),
        }
        self.counters.job += 1;
        let id = JobId(self.counters.job);
        let (progress, members) = (self.new_progress(at_us, &kind), self.new_members(&kind));
        let job = Job {
            id,
            request,
            kind,
            state: JobState::Running,
            step: "waiting".to_owned(),
            percent: 0,
            error: None,
            created_us: at_us,
            ended_us: 0,
            placement: None,
            results: vec![],
            progress,
            members,
        };
        self.jobs.insert(id, job);
        Ok(MetaReply::Job(id))
    }

    /// Is there room for one more write?
    fn check_waiting(&self, write: &ReferenceWrite) -> Result<(), Error> {
        let waiting = self.jobs.values().filter(|job| !job.ended()).filter_map(|job| match &job.kind {
            JobKind::Write(write) => Some(write.size_bytes()),
            _ => None,
        });
        let (count, bytes) = waiting.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        if count >= MAX_WAITING_WRITES || bytes + write.size_bytes() > MAX_WAITING_WRITE_BYTES {
            return Err(Error::new(
                Code::Overloaded,
                format!("{count} writes to reference tables wait, with {bytes} bytes"),
            )
            .hint("retry later; reference tables are for data that seldom changes"));
        }
        Ok(())
    }

    /// Is there room for one more script?
    fn check_waiting_scripts(&self, script: &Script) -> Result<(), Error> {
        let waits = |job: &&Job| !job.ended() && matches!(job.kind, JobKind::Script(_));
        let waiting = self.jobs.values().filter(waits).count();
        if waiting >= MAX_WAITING_SCRIPTS {
            return Err(Error::new(Code::Overloaded, format!("{waiting} scripts wait")).hint("retry later"));
        }
        match script.size_bytes() <= MAX_SCRIPT_BYTES && script.statements.len() <= MAX_SCRIPT_STATEMENTS {
            true => Ok(()),
            false => Err(Error::new(Code::TooLarge, "the script is too large")),
        }
    }

    pub(super) fn running_job(&mut self, id: JobId) -> Result<&mut Job, Error> {
        match self.jobs.get_mut(&id) {
            Some(job) if !job.ended() => Ok(job),
            Some(_) => Err(Error::new(Code::Conflict, format!("job {id} has ended"))),
            None => Err(Error::new(Code::NoSuchObject, format!("there is no job {id}"))),
        }
    }

    fn forget_old_jobs(&mut self) {
        let ended = self.jobs.values().filter(|job| job.ended());
        let (writes, others): (Vec<&Job>, Vec<&Job>) = ended.partition(|job| matches!(job.kind, JobKind::Write(_)));
        let too_many = |jobs: Vec<&Job>, kept: usize| {
            let over = jobs.len().saturating_sub(kept);
            jobs.into_iter().take(over).map(|job| job.id).collect::<Vec<_>>()
        };
        let gone = [too_many(writes, FINISHED_WRITES_KEPT), too_many(others, FINISHED_JOBS_KEPT)];
        for id in gone.into_iter().flatten() {
            self.jobs.remove(&id);
        }
        let scripts = self.jobs.values_mut().rev().filter(|job| matches!(job.kind, JobKind::Script(_)));
        scripts.filter(|job| job.ended()).skip(SCRIPT_RESULTS_KEPT).for_each(|job| job.results.clear());
    }

    fn reserve_keys(&mut self, table: &str, count: u32, at_least: i64) -> Result<MetaReply, Error> {
        let next = self.next_key.entry(table.to_ascii_lowercase()).or_insert(1);
        let first = (*next).max(at_least);
        *next = first
            .checked_add(i64::from(count))
            .ok_or_else(|| Error::new(Code::Conflict, format!("table {table} has no integer keys left")))?;
        Ok(MetaReply::Keys(first))
    }

    fn take_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Schema { placements, objects, tables } => {
                self.schema_version = SchemaVersion(self.schema_version.0 + 1);
                self.objects.retain(|object| !placements.contains(&object.placement));
                self.objects.extend(objects);
                self.tables.retain(|_, table| !placements.contains(&table.placement));
                self.tables.extend(tables.into_iter().map(|table| (table.name.to_ascii_lowercase(), table)));
                let tables = &self.tables;
                self.next_key.retain(|name, _| tables.contains_key(name));
            }
            Effect::Placement(placement) => {
                self.placements.insert(placement.id, placement);
            }
            Effect::Holds { placement, shard } => {
                if let Some(placement) = self.placements.get_mut(&placement).filter(|p| !p.shards.contains(&shard)) {
                    placement.shards.push(shard);
                    placement.shards.sort();
                }
            }
            Effect::Register { table, placement, key } => {
                self.schema_version = SchemaVersion(self.schema_version.0 + 1);
                for object in self.objects.iter_mut().filter(|object| object.table.eq_ignore_ascii_case(&table)) {
                    object.placement = placement;
                }
                if let Some(table) = self.tables.get_mut(&table.to_ascii_lowercase()) {
                    (table.placement, table.key) = (placement, key);
                }
            }
            Effect::Epoch { placement, shard, epoch } => {
                if let Some(placement) = self.placements.get_mut(&placement) {
                    placement.raise(shard, epoch);
                }
            }
            Effect::NodeRemoved(node) => {
                if let Some(info) = self.nodes.get_mut(&node) {
                    info.removed = true;
                }
                // A node that has left drops all that it hosts.
                self.left.retain(|(_, info)| info.node != node);
                self.draining.remove(&node);
            }
            Effect::Copy { placement, shard, epoch } => {
                if let Some(placement) = self.placements.get_mut(&placement) {
                    placement.owned.insert(shard, SlotSet::all(1));
                    placement.raise(shard, epoch);
                }
                self.take_effect(Effect::Holds { placement, shard });
            }
            Effect::Forget(placement) => self.forget_placement(placement),
        }
    }
}

//! What a job that moves slots is after, as the registry stands now; what keeps a table on its shard.

use std::collections::BTreeSet;

use super::{Function, Goal, HOME, HOME_SHARD, Job, JobKind, Placement, Registry, SlotSet};
use crate::error::{Code, Error};
use crate::ids::{GroupId, PlacementId};

impl Registry {
    /// What a job has yet to do; `None` when no slot and no table is left where it should not be.
    ///
    /// # Errors
    /// That it cannot be done any more, for example because its table is gone.
    pub fn goal(&self, job: &Job) -> Result<Option<(&Placement, Goal)>, Error> {
        let begun = job.progress.as_ref().is_some_and(|progress| progress.moves > 0);
        match &job.kind {
            JobKind::Rebalance { table, .. } => Ok(Some((self.spread(table)?, Goal::Even { begun }))),
            JobKind::Give { table, slots, to, .. } => {
                let placement = self.spread(table)?;
                self.takes(placement, table, *to)?;
                Ok(Some((placement, Goal::Give(slots.clone(), *to))))
            }
            JobKind::Split { table, at, to, .. } => {
                let placement = self.spread(table)?;
                let Some(to) = to else { return Ok(None) };
                self.takes(placement, table, *to)?;
                Ok(Some((placement, Goal::Give(placement.slots_from(at), *to))))
            }
            JobKind::RemoveFromShard { table, shard, .. } => {
                let placement = self.placement_of_known(table)?;
                if !placement.shards.contains(shard) {
                    return Ok(None);
                }
                self.check_leave(placement, *shard)?;
                Ok(Some((placement, Goal::Drain(*shard))))
            }
            JobKind::RemoveShard { shard, .. } => {
                self.check_departure(*shard)?;
                // Copies of reference tables stay until nothing is left that may be joined with them.
                let mut here: Vec<&Placement> = self.placements.values().filter(|p| p.shards.contains(shard)).collect();
                here.sort_by_key(|placement| (placement.is_reference(), placement.id));
                Ok(here.first().map(|placement| (*placement, Goal::Drain(*shard))))
            }
            other => Err(Error::new(Code::Internal, format!("a job of kind {} moves no slots", other.name()))),
        }
    }

    /// May a shard get slots of a placement, of which this is a table?
    ///
    /// # Errors
    /// [`Code::NoSuchObject`] with what to do first.
    pub fn takes(&self, placement: &Placement, table: &str, shard: GroupId) -> Result<(), Error> {
        match placement.shards.contains(&shard) && !self.leaving(placement.id).contains(&shard) {
            true => Ok(()),
            false => Err(Error::new(Code::NoSuchObject, format!("{table} is not to be on {shard}"))
                .hint("POST /table/add-to-shard adds the shard")),
        }
    }

    /// Shards that a job is about to take out of the cluster.
    pub fn departing(&self) -> BTreeSet<GroupId> {
        let jobs = self.jobs.values().filter(|job| !job.ended());
        jobs.filter_map(|job| match &job.kind {
            JobKind::RemoveShard { shard, .. } => Some(*shard),
            _ => None,
        })
        .collect()
    }

    /// Shards that get no slots of a placement, because a job is about to take it away from them.
    pub fn leaving(&self, placement: PlacementId) -> BTreeSet<GroupId> {
        let jobs = self.jobs.values().filter(|job| !job.ended());
        let from_shard = jobs.filter_map(|job| match &job.kind {
            JobKind::RemoveFromShard { table, shard, .. } => {
                self.table(table).filter(|table| table.placement == placement).map(|_| *shard)
            }
            _ => None,
        });
        from_shard.chain(self.departing()).collect()
    }

    /// What keeps a placement on a shard, whatever its slots hold.
    ///
    /// # Errors
    /// [`Code::CannotLeave`] with what to do first.
    pub fn check_leave(&self, placement: &Placement, shard: GroupId) -> Result<(), Error> {
        let because = |message: String, hint: String| Err(Error::new(Code::CannotLeave, message).hint(hint));
        if shard == HOME_SHARD {
            return because(
                format!("{HOME_SHARD} knows all tables: those that nobody registered live there"),
                format!(
                    "POST /table/rebalance with \"weights\": {{\"{HOME_SHARD}\": 0}} takes the rows of a table off it"
                ),
            );
        }
        if placement.is_reference() {
            let sharded = |other: &&Placement| !other.is_reference() && other.shards.contains(&shard);
            if let Some(other) = self.placements.values().filter(|_| !self.departing().contains(&shard)).find(sharded) {
                let names: Vec<&str> = self.tables_of(other.id).collect();
                return because(
                    format!("{} on {shard} may be joined with it", names.join(", ")),
                    "take these off that shard first; POST /shard/{id}/remove takes all of them off".to_owned(),
                );
            }
        }
        let owns = placement.owned.get(&shard).is_some_and(|owned| !owned.is_empty());
        if owns && matches!(placement.function, Function::List { .. }) {
            return because(
                format!("values of a list are to live on {shard}"),
                "give them to another shard first: POST /table/split with \"values\" and \"to\"".to_owned(),
            );
        }
        Ok(())
    }

    /// What keeps a shard in the cluster.
    ///
    /// # Errors
    /// [`Code::CannotLeave`] with what to do first.
    pub fn check_departure(&self, shard: GroupId) -> Result<(), Error> {
        if shard == HOME_SHARD {
            return Err(Error::new(
                Code::CannotLeave,
                format!("{HOME_SHARD} is the home of tables that nobody registered"),
            )
            .hint("move its replicas to other nodes instead: POST /join and POST /remove"));
        }
        let here = self.placements.values().filter(|placement| placement.shards.contains(&shard));
        here.filter(|placement| !placement.is_reference()).try_for_each(|placement| self.check_leave(placement, shard))
    }

    /// The number of the next shard: those of removed ones are not used again, or what was planned for the old one
    /// might pass for the new one.
    pub fn next_shard(&self) -> GroupId {
        GroupId(self.groups.keys().map(|group| group.0).chain([self.counters.group]).max().unwrap_or(0) + 1)
    }

    /// Was this group taken out?
    pub fn is_gone(&self, group: GroupId) -> bool {
        group.is_shard() && group.0 <= self.counters.group && !self.groups.contains_key(&group)
    }

    /// Names of the tables of a placement.
    pub(super) fn tables_of(&self, placement: PlacementId) -> impl Iterator<Item = &str> {
        self.tables.values().filter(move |table| table.placement == placement).map(|table| table.name.as_str())
    }

    /// Does a shard own slots of a placement, or may the placement not leave it?
    pub(super) fn keeps(&self, placement: &Placement, shard: GroupId) -> bool {
        let owns = !placement.is_reference() && !placement.owned.get(&shard).is_none_or(SlotSet::is_empty);
        owns || !placement.shards.contains(&shard) || self.check_leave(placement, shard).is_err()
    }

    fn placement_of_known(&self, table: &str) -> Result<&Placement, Error> {
        let known = self.table(table).and_then(|table| self.placements.get(&table.placement));
        known.ok_or_else(|| Error::new(Code::NoSuchTable, format!("no such table: {table}")))
    }

    /// The placement of a table that is spread by a key.
    ///
    /// # Errors
    /// [`Code::NoSuchTable`], or [`Code::NoSuchObject`] for a table without a key.
    pub fn spread(&self, table: &str) -> Result<&Placement, Error> {
        let placement = self.placement_of_known(table)?;
        match placement.id != HOME && !placement.key.is_empty() {
            true => Ok(placement),
            false => {
                Err(Error::new(Code::NoSuchObject, format!("{table} is not spread by a key")).hint("register it first"))
            }
        }
    }
}

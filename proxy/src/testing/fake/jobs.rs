//! Jobs on the fake node, carried out at once.

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, PlacementId};
use flotilla_shared::registry::{
    Effect, Function, HOME, JobKind, JobState, MetaCommand, MetaReply, Placement, ReferenceWrite, Registration,
    SchemaObject, SlotSet, Spread, Table,
};
use flotilla_shared::slot::{HASH_SLOTS, KeyColumn};
use flotilla_shared::value::Value;
use flotilla_shared::wire::StatementResult;

use super::{State, run};

impl State {
    pub(super) fn meta(&mut self, command: MetaCommand) -> Result<MetaReply, Error> {
        let at_us = self.at_us;
        let reply = self.registry.apply(at_us, command.clone())?;
        let (MetaCommand::CreateJob { kind, .. }, MetaReply::Job(job)) = (command, &reply) else { return Ok(reply) };
        if self.registry.jobs[job].ended() {
            return Ok(reply);
        }
        let (state, error, effects, results) = match self.job(kind) {
            Ok((effects, results)) => (JobState::Done, None, effects, results),
            Err(error) => (JobState::Failed, Some(error), vec![], vec![]),
        };
        self.registry.apply(at_us, MetaCommand::EndJob { job: *job, state, error, effects, results })?;
        Ok(reply)
    }

    fn job(&mut self, kind: JobKind) -> Result<(Vec<Effect>, Vec<StatementResult>), Error> {
        let plain = |effects| (effects, vec![]);
        match kind {
            JobKind::Schema { sql, table } => self.schema(&sql, table.as_deref()).map(plain),
            JobKind::Register(registration) => self.register(&registration).map(plain),
            JobKind::Write(write) => self.write_copies(&write),
            JobKind::Script(script) => self.script(&script),
            JobKind::Split { table, at, .. } => self.split(&table, &at).map(plain),
            _ => Ok(plain(vec![])),
        }
    }

    fn split(&mut self, table: &str, at: &[Vec<Value>]) -> Result<Vec<Effect>, Error> {
        let mut placement = self.registry.placement_of(table).unwrap().clone();
        for split in placement.splits(at)? {
            let owner = placement.owner(split.slot).unwrap();
            let (epoch, owned) = self.shards.get_mut(&owner).unwrap().epochs.get_mut(&placement.id).unwrap();
            (epoch.0, *owned) = (epoch.0 + 1, split.of(owned));
            assert!(placement.split(&split, owner, *epoch));
        }
        Ok(vec![Effect::Placement(placement)])
    }

    fn write_copies(&mut self, write: &ReferenceWrite) -> Result<(Vec<Effect>, Vec<StatementResult>), Error> {
        if write.schema < self.registry.schema_version {
            return Err(Error::new(Code::StaleRoute, "stale"));
        }
        if let Some(done) = self.shards[&GroupId(1)].done.get(&write.request) {
            return Ok((vec![], done.clone()?));
        }
        let (mut effects, mut results) = (vec![], vec![]);
        for (shard, state) in &mut self.shards {
            results = write.statements.iter().map(|statement| run(&state.db, statement)).collect::<Result<_, _>>()?;
            for placement in &write.placements {
                let (epoch, _) = state.epochs.get_mut(placement).unwrap();
                epoch.0 += 1;
                effects.push(Effect::Epoch { placement: *placement, shard: *shard, epoch: *epoch });
            }
        }
        self.shards.get_mut(&GroupId(1)).unwrap().done.insert(write.request, Ok(results.clone()));
        Ok((effects, results))
    }

    fn schema(&mut self, sql: &str, table: Option<&str>) -> Result<Vec<Effect>, Error> {
        let placement = table.and_then(|name| self.registry.table(name)).map_or(HOME, |table| table.placement);
        for shard in &self.registry.placements[&placement].shards {
            self.shards[shard].db.execute_batch(sql).map_err(|error| Error::from_sqlite(&error))?;
        }
        self.effect(placement)
    }

    /// The schema of a placement, as its first shard has it.
    pub(super) fn effect(&self, placement: PlacementId) -> Result<Vec<Effect>, Error> {
        let db = &self.shards[&self.registry.placements[&placement].shards[0]].db;
        let mut objects = Vec::new();
        let mut tables = Vec::new();
        let mut query = db
            .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
            .unwrap();
        let found = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))).unwrap();
        for row in found {
            let (kind, name, of, sql): (String, String, String, String) = row.unwrap();
            let known = self.registry.table(&of);
            let mut objects_before = self.registry.objects.iter();
            let before = objects_before.find(|object| object.kind == kind && object.name == name);
            let lives = known.map(|known| known.placement).or(before.map(|object| object.placement));
            if lives.is_some_and(|lives| lives != placement) {
                continue;
            }
            if kind == "table" {
                let key = known.map_or(vec![], |known| known.key.clone());
                tables.push(Table { placement, key, ..Table::read(db, &name)? });
            }
            objects.push(SchemaObject { kind, name, table: of, sql, placement });
        }
        Ok(vec![Effect::Schema { placements: vec![placement], objects, tables }])
    }

    fn register(&mut self, registration: &Registration) -> Result<Vec<Effect>, Error> {
        let table = self.registry.table(&registration.table).unwrap().clone();
        let key: Vec<usize> = registration.key.iter().filter_map(|name| table.column(name)).collect();
        if key.len() != registration.key.len() {
            return Err(Error::new(Code::UnsafeRegistration, "no such column"));
        }
        self.registry.counters.placement += 1;
        let id = PlacementId(self.registry.counters.placement);
        let all: Vec<GroupId> = self.shards.keys().copied().collect();
        let compare: Vec<KeyColumn> = key.iter().map(|index| table.columns[*index].compare).collect();
        let (function, owned) = match &registration.spread {
            Spread::Hash => (Function::Hash, Placement::even_shares(HASH_SLOTS, &all)),
            Spread::Range { points } => {
                let function = Function::range(&compare, points.clone())?;
                let owned = Placement::even_shares(function.slots(), &all);
                (function, owned)
            }
            Spread::List { values, default } => Function::list(&compare, values, *default)?,
            Spread::Reference => (Function::Reference, all.iter().map(|shard| (*shard, SlotSet::all(1))).collect()),
        };
        let epochs: BTreeMap<GroupId, Epoch> = all.iter().map(|shard| (*shard, Epoch(1))).collect();
        let sql: Vec<String> =
            self.registry.objects.iter().filter(|o| o.table == table.name).map(|o| o.sql.clone()).collect();
        for (shard, state) in &mut self.shards {
            if *shard != GroupId(1) {
                state.db.execute_batch(&sql.join(";")).map_err(|error| Error::from_sqlite(&error))?;
            }
            state.epochs.insert(id, (Epoch(1), owned.get(shard).cloned().unwrap_or_default()));
        }
        let slots = function.slots();
        let placement = Placement { id, function, key: compare, slots, shards: all, owned, epochs };
        Ok(vec![Effect::Placement(placement), Effect::Register { table: table.name, placement: id, key }])
    }
}

//! Sharding a table: `/table/register` and `/table/add-to-shard`.
//!
//! A table that holds rows keeps them: its placement starts out wholly on the home shard. An empty
//! one is spread over the shards. Which of the two it is, the home shard decides inside apply, in the
//! same entry that takes the table out of the home placement. Order of steps: the schema on all other
//! shards; the home shard lets go; the rows of a reference table are copied; the others take their
//! slots; the registry learns. A write planned with an old registry is refused from the second step on,
//! and planned anew once the last is done. What fails before the home shard has let go is undone ([`super::undo`]);
//! from there on the job only goes forward.
//!
//! How the table will lie is decided once, by the first driver, and recorded before any shard changes
//! (`shared/src/registry/begin.rs`): the shares that others take must be the rest of what the home shard kept.
//!
//! A shard that was made after a reference table gets a copy of it before it holds any other table.

use std::collections::BTreeMap;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, PlacementId, SchemaVersion};
use flotilla_shared::registry::{
    Effect, Function, HOME, HOME_SHARD, JobKind, Placement, Registration, Registry, SlotSet, Table, quoted,
};
use flotilla_shared::steps::{SCHEMA_STEP, take_step};
use flotilla_shared::wire::{NewHome, ShardCommand, ShardReply};

use super::check::{Checked, Lie, check, check_decided};
use super::schema::{next_version, step};
use super::{Driver, copy};

pub(super) async fn run(
    driver: &Driver<'_>,
    registry: &Registry,
    registration: &Registration,
) -> Result<Vec<Effect>, Error> {
    let checked = match driver.job.begun() {
        None => check(registry, registration)?,
        Some(_) => check_decided(registry, registration)?,
    };
    let (placement, shards) = match checked.lie {
        Lie::With(placement) => (Some(placement.id), placement.shards.clone()),
        Lie::New { shards, .. } => (None, shards),
    };
    let (id, registry) = driver.begin(placement, shards).await?;
    let job = registry.jobs.get(&driver.job.id).map(|job| &job.kind);
    let Some(JobKind::Register(decided)) = job else {
        return Err(Error::new(Code::Unavailable, "another driver has taken this job further"));
    };
    let checked = check_decided(&registry, decided)?;
    match &checked.lie {
        Lie::With(placement) => colocate(driver, &registry, &checked, placement).await,
        Lie::New { function, shares, shards } => {
            spread(driver, &registry, &checked, id, function, shares, shards).await
        }
    }
}

/// Statements that make the table on another shard.
fn definition(registry: &Registry, table: &Table) -> Vec<String> {
    registry
        .objects
        .iter()
        .filter(|object| {
            object.table.eq_ignore_ascii_case(&table.name)
                && matches!(object.kind.as_str(), "table" | "index" | "trigger")
        })
        .map(|object| object.sql.clone())
        .collect()
}

/// Reference placements of which a shard has no copy: it was made after them.
fn missing_references(registry: &Registry, shard: GroupId) -> Vec<&Placement> {
    registry.placements.values().filter(|p| p.is_reference() && !p.owned.contains_key(&shard)).collect()
}

fn tables_of<'a>(registry: &'a Registry, placement: &Placement) -> impl Iterator<Item = &'a Table> {
    let id = placement.id;
    registry.tables.values().filter(move |table| table.placement == id)
}

/// A shard that is about to hold tables, with what it lacks.
struct Newcomer<'a> {
    shard: GroupId,
    /// Reference placements that it gets a copy of first: they are to be joined with everywhere.
    missing: Vec<&'a Placement>,
    /// Their tables.
    copies: Vec<&'a Table>,
    /// All tables that it gets, these among them.
    tables: Vec<&'a Table>,
}

impl<'a> Newcomer<'a> {
    fn new(registry: &'a Registry, shard: GroupId, tables: impl Iterator<Item = &'a Table>) -> Self {
        let missing = missing_references(registry, shard);
        let copies: Vec<&Table> = missing.iter().flat_map(|placement| tables_of(registry, placement)).collect();
        let tables = copies.iter().copied().chain(tables).collect();
        Self { shard, missing, copies, tables }
    }

    async fn define(&self, driver: &Driver<'_>, registry: &Registry) -> Result<(), Error> {
        driver.note(&format!("table definition on {}", self.shard), 10, None).await;
        let sql: Vec<String> = self.tables.iter().flat_map(|table| definition(registry, table)).collect();
        step(driver, registry, self.shard, driver.job.id, sql, false).await.map(drop)
    }

    /// Statements that drop what [`Newcomer::define`] made.
    fn undefine(&self) -> Vec<String> {
        self.tables.iter().rev().map(|table| format!("DROP TABLE IF EXISTS {}", quoted(&table.name))).collect()
    }
}

/// Makes tables on all newcomers and fills those that are copies.
async fn define(driver: &Driver<'_>, registry: &Registry, newcomers: &[Newcomer<'_>]) -> Result<(), Error> {
    for newcomer in newcomers {
        newcomer.define(driver, registry).await?;
        copy::fill(driver, registry, 0, &newcomer.copies, &[newcomer.shard]).await?;
    }
    Ok(())
}

/// Lets newcomers serve their copies.
async fn own_copies(driver: &Driver<'_>, newcomers: &[Newcomer<'_>]) -> Result<Vec<Effect>, Error> {
    let mut effects = Vec::new();
    for newcomer in newcomers {
        for placement in &newcomer.missing {
            let epoch = copy::own(driver, placement, newcomer.shard).await?;
            effects.push(Effect::Copy { placement: placement.id, shard: newcomer.shard, epoch });
        }
    }
    Ok(effects)
}

/// Statements that drop what a registration made on a shard.
pub(super) fn undefine(registry: &Registry, table: &str, shard: GroupId) -> Result<Vec<String>, Error> {
    Ok(Newcomer::new(registry, shard, [known(registry, table)?].into_iter()).undefine())
}

/// Statements that take a table off a shard that it was to be added to, and the step behind which it stays there.
pub(super) fn unadd(registry: &Registry, table: &str, shard: GroupId) -> Result<(String, Vec<String>), Error> {
    let newcomer = added(registry, known(registry, table)?, shard);
    let unless = newcomer.missing.first().map_or(SCHEMA_STEP.to_owned(), |copy| take_step(copy.id));
    Ok((unless, newcomer.undefine()))
}

fn known<'a>(registry: &'a Registry, table: &str) -> Result<&'a Table, Error> {
    registry.table(table).ok_or_else(|| Error::new(Code::NoSuchTable, format!("no such table: {table}")))
}

/// The home shard lets the table go. From there on the job only goes forward.
async fn leave_home(
    driver: &Driver<'_>,
    registry: &Registry,
    table: &Table,
    into: NewHome,
) -> Result<(bool, Epoch), Error> {
    driver.note("taking over from the home shard", 60, None).await;
    let version: SchemaVersion = next_version(registry);
    let command = ShardCommand::Register { job: driver.job.id, table: table.name.clone(), into, version };
    match driver.shard(HOME_SHARD, command).await? {
        ShardReply::Registered { had_rows, home_epoch } => Ok((had_rows, home_epoch)),
        other => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
    }
}

async fn spread(
    driver: &Driver<'_>,
    registry: &Registry,
    checked: &Checked<'_>,
    id: PlacementId,
    function: &Function,
    shares: &BTreeMap<GroupId, SlotSet>,
    shards: &[GroupId],
) -> Result<Vec<Effect>, Error> {
    let table = checked.table;
    let others: Vec<GroupId> = shards.iter().copied().filter(|shard| *shard != HOME_SHARD).collect();
    let newcomers: Vec<Newcomer<'_>> =
        others.iter().map(|shard| Newcomer::new(registry, *shard, [table].into_iter())).collect();
    define(driver, registry, &newcomers).await?;
    let (all, share) = (SlotSet::all(function.slots()), shares.get(&HOME_SHARD).cloned().unwrap_or_default());
    let reference = *function == Function::Reference;
    let into = match reference {
        true => NewHome::Reference { placement: id },
        false => NewHome::New { placement: id, share, all: all.clone() },
    };
    let (had_rows, home_epoch) = leave_home(driver, registry, table, into).await?;
    let mut placement = Placement {
        id,
        function: function.clone(),
        key: checked.key.iter().map(|index| table.columns[*index].compare).collect(),
        slots: function.slots(),
        shards: vec![HOME_SHARD],
        owned: [(HOME_SHARD, all.clone())].into(),
        epochs: [(HOME_SHARD, Epoch(1))].into(),
    };
    let mut effects = own_copies(driver, &newcomers).await?;
    if reference {
        copy::fill(driver, registry, 1, &[table], &others).await?;
        for shard in &others {
            let epoch = copy::own(driver, &placement, *shard).await?;
            placement.owned.insert(*shard, all.clone());
            placement.epochs.insert(*shard, epoch);
        }
    } else {
        if !had_rows {
            placement.owned = shares.clone();
            placement.epochs = shares.keys().map(|shard| (*shard, Epoch(1))).collect();
        }
        for (shard, slots) in placement.owned.iter().filter(|(shard, _)| **shard != HOME_SHARD) {
            driver.note(&format!("slots of {shard}"), 80, None).await;
            copy::take(driver, id, *shard, Epoch(1), slots.clone()).await?;
        }
    }
    placement.shards.extend(&others);
    placement.shards.sort();
    effects.extend(registered(checked, id, home_epoch, Some(placement)));
    Ok(effects)
}

async fn colocate(
    driver: &Driver<'_>,
    registry: &Registry,
    checked: &Checked<'_>,
    placement: &Placement,
) -> Result<Vec<Effect>, Error> {
    let others: Vec<GroupId> = placement.shards.iter().copied().filter(|shard| *shard != HOME_SHARD).collect();
    let newcomers: Vec<Newcomer<'_>> =
        others.iter().map(|shard| Newcomer::new(registry, *shard, [checked.table].into_iter())).collect();
    define(driver, registry, &newcomers).await?;
    // None of them begins to move from here on; one that is under way may be past its commit point.
    let moved = registry.moves().any(|moving| moving.placement == placement.id);
    let all_home = placement.owners().all(|owner| owner == HOME_SHARD) && !moved;
    let into = NewHome::Existing { rows_may_stay: all_home };
    let (_, home_epoch) = leave_home(driver, registry, checked.table, into).await?;
    let mut effects = own_copies(driver, &newcomers).await?;
    effects.extend(registered(checked, placement.id, home_epoch, None));
    Ok(effects)
}

fn registered(checked: &Checked<'_>, id: PlacementId, home_epoch: Epoch, placement: Option<Placement>) -> Vec<Effect> {
    let mut effects: Vec<Effect> = placement.map(Effect::Placement).into_iter().collect();
    effects.push(Effect::Register { table: checked.table.name.clone(), placement: id, key: checked.key.clone() });
    effects.push(Effect::Epoch { placement: HOME, shard: HOME_SHARD, epoch: home_epoch });
    effects
}

/// What a shard is to get with a table. A reference placement is among those that the shard lacks.
fn added<'a>(registry: &'a Registry, table: &Table, shard: GroupId) -> Newcomer<'a> {
    let placement = registry.placements.get(&table.placement).filter(|placement| !placement.is_reference());
    Newcomer::new(registry, shard, placement.into_iter().flat_map(|placement| tables_of(registry, placement)))
}

pub(super) async fn add_to_shard(
    driver: &Driver<'_>,
    registry: &Registry,
    table: &str,
    shard: GroupId,
) -> Result<Vec<Effect>, Error> {
    let found = known(registry, table)?;
    let placement = registry.placements[&found.placement].clone();
    if placement.shards.contains(&shard) {
        return Ok(vec![]);
    }
    if driver.job.begun().is_none() {
        if !shard.is_shard() || !registry.groups.contains_key(&shard) {
            return Err(Error::new(Code::NoSuchObject, format!("there is no shard {shard}")));
        }
        if registry.leaving(placement.id).contains(&shard) {
            return Err(Error::new(Code::Conflict, format!("{} is being taken off {shard}", found.name))
                .hint("wait for the end of that job, or cancel it; see GET /job"));
        }
        if placement.id == HOME {
            return Err(Error::new(Code::Conflict, format!("{} is not sharded", found.name)).hint("register it first"));
        }
    }
    let (_, registry) = driver.begin(Some(placement.id), vec![shard]).await?;
    let newcomers = [added(&registry, known(&registry, table)?, shard)];
    define(driver, &registry, &newcomers).await?;
    let mut effects = own_copies(driver, &newcomers).await?;
    if !placement.is_reference() {
        effects.push(Effect::Holds { placement: placement.id, shard });
    }
    // The definition has raised the shard's schema version; plans must reach it before slots do.
    effects.push(Effect::Schema { placements: vec![], objects: vec![], tables: vec![] });
    Ok(effects)
}

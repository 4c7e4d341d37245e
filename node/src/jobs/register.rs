//! Sharding a table: `/table/register` and `/table/add-to-shard`.
//!
//! A table that holds rows keeps them: its placement starts out wholly on the home shard. An empty
//! one is spread over the shards. Which of the two it is, the home shard decides inside apply, in the
//! same entry that takes the table out of the home placement. Order of steps: the schema on all other
//! shards; the home shard lets go; the rows of a reference table are copied; the others take their
//! slots; the registry learns. A write planned with an old registry is refused from the second step on,
//! and planned anew once the last is done. What fails before the home shard has let go is undone.
//!
//! A shard that was made after a reference table gets a copy of it before it holds any other table.

use std::collections::BTreeMap;

use flotilla_shared::error::{Class, Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, PlacementId, SchemaVersion};
use flotilla_shared::registry::{
    Effect, Function, HOME, HOME_SHARD, MetaCommand, MetaReply, Placement, Registration, Registry, SlotSet, Table,
    quoted,
};
use flotilla_shared::wire::{NewHome, ShardCommand, ShardReply};

use super::check::{Checked, Lie, check};
use super::schema::{next_version, step, undo_step};
use super::{Driver, copy, write};

pub(super) async fn run(
    driver: &Driver<'_>,
    registry: &Registry,
    registration: &Registration,
) -> Result<Vec<Effect>, Error> {
    let checked = check(registry, registration)?;
    match &checked.lie {
        Lie::With(placement) => colocate(driver, registry, &checked, placement).await,
        Lie::New { function, shares, shards } => spread(driver, registry, &checked, function, shares, shards).await,
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
}

/// Makes tables on all newcomers and fills those that are copies; when one refuses, on none.
async fn define(driver: &Driver<'_>, registry: &Registry, newcomers: &[Newcomer<'_>]) -> Result<(), Error> {
    for (done, newcomer) in newcomers.iter().enumerate() {
        let (made, outcome) = match newcomer.define(driver, registry).await {
            Ok(()) => (done + 1, copy::fill(driver, registry, 0, &newcomer.copies, &[newcomer.shard]).await),
            Err(error) => (done, Err(error)),
        };
        if let Err(error) = outcome {
            if error.code.class() == Class::Refused {
                undefine(driver, registry, &newcomers[..made]).await?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Lets newcomers serve their copies.
async fn own_copies(driver: &Driver<'_>, newcomers: &[Newcomer<'_>]) -> Result<Vec<Effect>, Error> {
    let mut placements: BTreeMap<PlacementId, Placement> = BTreeMap::new();
    for newcomer in newcomers {
        for missing in &newcomer.missing {
            let placement = placements.entry(missing.id).or_insert_with(|| (*missing).clone());
            copy::own(driver, placement, &[newcomer.shard]).await?;
        }
    }
    Ok(placements.into_values().map(Effect::Placement).collect())
}

/// Drops what [`define`] made.
async fn undefine(driver: &Driver<'_>, registry: &Registry, newcomers: &[Newcomer<'_>]) -> Result<(), Error> {
    for newcomer in newcomers {
        for table in newcomer.tables.iter().rev() {
            undo_step(driver, registry, newcomer.shard, format!("DROP TABLE {}", quoted(&table.name))).await?;
        }
    }
    Ok(())
}

/// The home shard lets the table go. From there on the job only goes forward; before, it leaves nothing.
async fn leave_home(
    driver: &Driver<'_>,
    registry: &Registry,
    table: &Table,
    into: NewHome,
    newcomers: &[Newcomer<'_>],
) -> Result<(bool, Epoch), Error> {
    driver.note("taking over from the home shard", 60, None).await;
    let version: SchemaVersion = next_version(registry);
    let command = ShardCommand::Register { job: driver.job.id, table: table.name.clone(), into, version };
    match driver.shard(HOME_SHARD, command).await {
        Ok(ShardReply::Registered { had_rows, home_epoch }) => Ok((had_rows, home_epoch)),
        Ok(other) => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
        Err(error) => {
            if error.code.class() == Class::Refused {
                undefine(driver, registry, newcomers).await?;
            }
            Err(error)
        }
    }
}

async fn spread(
    driver: &Driver<'_>,
    registry: &Registry,
    checked: &Checked<'_>,
    function: &Function,
    shares: &BTreeMap<GroupId, SlotSet>,
    shards: &[GroupId],
) -> Result<Vec<Effect>, Error> {
    let MetaReply::Placement(id) =
        driver.cluster.meta(MetaCommand::ReservePlacement { job: driver.job.id }, driver.deadline()).await?
    else {
        return Err(Error::new(Code::Internal, "no placement was reserved"));
    };
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
    let (had_rows, home_epoch) = leave_home(driver, registry, table, into, &newcomers).await?;
    let mut placement = Placement {
        id,
        function: function.clone(),
        key: checked.key.iter().map(|index| table.columns[*index].compare).collect(),
        slots: function.slots(),
        shards: vec![HOME_SHARD],
        owned: [(HOME_SHARD, all.clone())].into(),
        epochs: [(HOME_SHARD, Epoch(1))].into(),
    };
    let forward = |error| write::forward(HOME_SHARD, error);
    let mut effects = own_copies(driver, &newcomers).await.map_err(forward)?;
    if reference {
        copy::fill(driver, registry, 1, &[table], &others).await.map_err(forward)?;
        copy::own(driver, &mut placement, &others).await.map_err(forward)?;
    } else {
        if !had_rows {
            placement.owned = shares.clone();
            placement.epochs = shares.keys().map(|shard| (*shard, Epoch(1))).collect();
        }
        for (shard, slots) in placement.owned.iter().filter(|(shard, _)| **shard != HOME_SHARD) {
            driver.note(&format!("slots of {shard}"), 80, None).await;
            driver.shard(*shard, ShardCommand::Own { placement: id, epoch: Epoch(1), slots: slots.clone() }).await?;
        }
        placement.shards.extend(&others);
        placement.shards.sort();
    }
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
    let all_home = placement.owners().all(|owner| owner == HOME_SHARD);
    let into = NewHome::Existing { rows_may_stay: all_home };
    let (_, home_epoch) = leave_home(driver, registry, checked.table, into, &newcomers).await?;
    let mut effects = own_copies(driver, &newcomers).await.map_err(|error| write::forward(HOME_SHARD, error))?;
    effects.extend(registered(checked, placement.id, home_epoch, None));
    Ok(effects)
}

fn registered(checked: &Checked<'_>, id: PlacementId, home_epoch: Epoch, placement: Option<Placement>) -> Vec<Effect> {
    let mut effects: Vec<Effect> = placement.map(Effect::Placement).into_iter().collect();
    effects.push(Effect::Register { table: checked.table.name.clone(), placement: id, key: checked.key.clone() });
    effects.push(Effect::Epoch { placement: HOME, shard: HOME_SHARD, epoch: home_epoch });
    effects
}

pub(super) async fn add_to_shard(
    driver: &Driver<'_>,
    registry: &Registry,
    table: &str,
    shard: GroupId,
) -> Result<Vec<Effect>, Error> {
    let table =
        registry.table(table).ok_or_else(|| Error::new(Code::NoSuchTable, format!("no such table: {table}")))?;
    if !shard.is_shard() || !registry.groups.contains_key(&shard) {
        return Err(Error::new(Code::NoSuchObject, format!("there is no shard {shard}")));
    }
    let placement = registry.placements[&table.placement].clone();
    if registry.leaving(placement.id).contains(&shard) {
        return Err(Error::new(Code::Conflict, format!("{} is being taken off {shard}", table.name))
            .hint("wait for the end of that job, or cancel it; see GET /job"));
    }
    if placement.shards.contains(&shard) {
        return Ok(vec![]);
    }
    if placement.id == HOME {
        return Err(Error::new(Code::Conflict, format!("{} is not sharded", table.name)).hint("register it first"));
    }
    // A reference placement is among those that the shard lacks.
    let own_tables = tables_of(registry, &placement).filter(|_| !placement.is_reference());
    let newcomers = [Newcomer::new(registry, shard, own_tables)];
    define(driver, registry, &newcomers).await?;
    let mut effects = own_copies(driver, &newcomers).await?;
    if !placement.is_reference() {
        effects.push(Effect::Holds { placement: placement.id, shard });
    }
    // The definition has raised the shard's schema version; plans must reach it before slots do.
    effects.push(Effect::Schema { placements: vec![], objects: vec![], tables: vec![] });
    Ok(effects)
}

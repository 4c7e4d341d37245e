//! Sharding a table: `/table/register` and `/table/add-to-shard`.
//!
//! A table that holds rows keeps them: its placement starts out wholly on the home shard. An empty
//! one is spread over the shards. Which of the two it is, the home shard decides inside apply, in the
//! same entry that takes the table out of the home placement. Order of steps: the schema on all other
//! shards; the home shard lets go; the others take their slots; the registry learns. A write planned
//! with an old registry is refused from the second step on, and planned anew once the last is done.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, GroupId, PlacementId, SchemaVersion};
use flotilla_shared::registry::{
    Effect, Function, HOME, HOME_SHARD, MetaCommand, MetaReply, Placement, Registration, Registry, SlotSet, Table,
};
use flotilla_shared::slot::{HASH_SLOTS, KeyColumn};
use flotilla_shared::wire::{NewHome, ShardCommand, ShardReply};

use super::Driver;
use super::schema::{next_version, step};

pub(super) async fn run(
    driver: &Driver<'_>,
    registry: &Registry,
    registration: &Registration,
) -> Result<Vec<Effect>, Error> {
    let table = registry
        .table(&registration.table)
        .ok_or_else(|| Error::new(Code::NoSuchTable, format!("no such table: {}", registration.table)))?;
    let key = check(registry, table, registration)?;
    match &registration.colocate_with {
        Some(other) => colocate(driver, registry, table, key, other).await,
        None => spread(driver, registry, table, key, &registration.shards).await,
    }
}

/// The key columns, or why the table cannot be sharded by them.
fn check(registry: &Registry, table: &Table, registration: &Registration) -> Result<Vec<usize>, Error> {
    let unsafe_because = |why: String, hint: &str| Err(Error::new(Code::UnsafeRegistration, why).hint(hint));
    if table.placement != HOME {
        let keys: Vec<&str> = table.key_names().collect();
        return Err(Error::new(
            Code::AlreadyRegistered,
            format!("{} is sharded by ({}) already", table.name, keys.join(", ")),
        ));
    }
    let mut key = Vec::new();
    for name in &registration.key {
        match table.column(name) {
            Some(index) if !table.columns[index].generated => key.push(index),
            Some(_) => return unsafe_because(format!("{name} is a generated column"), "choose a stored column"),
            None => return unsafe_because(format!("{} has no column {name}", table.name), "name columns of the table"),
        }
    }
    if key.is_empty() {
        return unsafe_because("a shard key has at least one column".into(), "give `shard_key`");
    }
    for set in &table.unique {
        let covers = |index: &usize| set.iter().any(|name| name.eq_ignore_ascii_case(&table.columns[*index].name));
        if !key.iter().all(covers) {
            return unsafe_because(
                format!("UNIQUE ({}) does not contain the shard key", set.join(", ")),
                "rows that must be unique together have to live on one shard: shard by a column of it",
            );
        }
    }
    let own = |kind: &str| {
        registry.objects.iter().find(|object| object.kind == kind && object.table.eq_ignore_ascii_case(&table.name))
    };
    if let Some(trigger) = own("trigger") {
        return unsafe_because(
            format!("trigger {} might touch rows of another shard", trigger.name),
            "drop the trigger first",
        );
    }
    let refers = |sql: &str| sql.to_ascii_uppercase().contains("REFERENCES");
    let referenced = registry.objects.iter().any(|object| {
        object.kind == "table"
            && refers(&object.sql)
            && (object.table.eq_ignore_ascii_case(&table.name)
                || object.sql.to_ascii_lowercase().contains(&table.name.to_ascii_lowercase()))
    });
    if referenced {
        return unsafe_because(
            format!("a foreign key from or to {} might cross shards", table.name),
            "drop the foreign key first",
        );
    }
    Ok(key)
}

fn compare(table: &Table, key: &[usize]) -> Vec<KeyColumn> {
    key.iter().map(|index| table.columns[*index].compare).collect()
}

/// Statements that make the table on another shard.
fn definition(registry: &Registry, table: &Table) -> Vec<String> {
    registry
        .objects
        .iter()
        .filter(|object| {
            object.table.eq_ignore_ascii_case(&table.name) && matches!(object.kind.as_str(), "table" | "index")
        })
        .map(|object| object.sql.clone())
        .collect()
}

async fn define(driver: &Driver<'_>, registry: &Registry, tables: &[&Table], shards: &[GroupId]) -> Result<(), Error> {
    let sql: Vec<String> = tables.iter().flat_map(|table| definition(registry, table)).collect();
    for (done, shard) in shards.iter().enumerate() {
        driver.note(&format!("table definition on {shard}"), (50 * done / shards.len()) as u8, None).await;
        step(driver, registry, *shard, driver.job.id, sql.clone(), false).await?;
    }
    Ok(())
}

async fn leave_home(
    driver: &Driver<'_>,
    table: &Table,
    into: NewHome,
    version: SchemaVersion,
) -> Result<(bool, Epoch), Error> {
    driver.note("taking over from the home shard", 60, None).await;
    let command = ShardCommand::Register { job: driver.job.id, table: table.name.clone(), into, version };
    match driver.shard(HOME_SHARD, command).await? {
        ShardReply::Registered { had_rows, home_epoch } => Ok((had_rows, home_epoch)),
        other => Err(Error::new(Code::Internal, format!("a shard gave another answer: {other:?}"))),
    }
}

async fn spread(
    driver: &Driver<'_>,
    registry: &Registry,
    table: &Table,
    key: Vec<usize>,
    wanted: &[GroupId],
) -> Result<Vec<Effect>, Error> {
    let shards: Vec<GroupId> = if wanted.is_empty() { registry.shards().collect() } else { wanted.to_vec() };
    if let Some(unknown) = shards.iter().find(|shard| !registry.groups.contains_key(shard) || !shard.is_shard()) {
        return Err(Error::new(Code::NoSuchObject, format!("there is no shard {unknown}")));
    }
    let MetaReply::Placement(id) =
        driver.cluster.meta(MetaCommand::ReservePlacement { job: driver.job.id }, driver.deadline()).await?
    else {
        return Err(Error::new(Code::Internal, "no placement was reserved"));
    };
    let others: Vec<GroupId> = shards.iter().copied().filter(|shard| *shard != HOME_SHARD).collect();
    define(driver, registry, &[table], &others).await?;
    let shares = Placement::even_shares(HASH_SLOTS, &shards);
    let share = shares.get(&HOME_SHARD).cloned().unwrap_or_default();
    let into = NewHome::New { placement: id, share, all: SlotSet::all(HASH_SLOTS) };
    let (had_rows, home_epoch) = leave_home(driver, table, into, next_version(registry)).await?;
    let owned = if had_rows { [(HOME_SHARD, SlotSet::all(HASH_SLOTS))].into() } else { shares };
    for (shard, slots) in owned.iter().filter(|(shard, _)| **shard != HOME_SHARD) {
        driver.note(&format!("slots of {shard}"), 80, None).await;
        driver.shard(*shard, ShardCommand::Own { placement: id, epoch: Epoch(1), slots: slots.clone() }).await?;
    }
    let mut members = others;
    members.push(HOME_SHARD);
    members.sort();
    let epochs = owned.keys().map(|shard| (*shard, Epoch(1))).collect();
    let placement = Placement {
        id,
        function: Function::Hash,
        key: compare(table, &key),
        slots: HASH_SLOTS,
        shards: members,
        owned,
        epochs,
    };
    Ok(registered(table, key, id, home_epoch, Some(placement)))
}

async fn colocate(
    driver: &Driver<'_>,
    registry: &Registry,
    table: &Table,
    key: Vec<usize>,
    other: &str,
) -> Result<Vec<Effect>, Error> {
    let placement = match registry.table(other) {
        None => return Err(Error::new(Code::NoSuchTable, format!("no such table: {other}"))),
        Some(other) if other.placement == HOME => {
            return Err(Error::new(Code::UnsafeRegistration, format!("{} is not sharded", other.name))
                .hint("register it first"));
        }
        Some(other) => &registry.placements[&other.placement],
    };
    if placement.key != compare(table, &key) {
        return Err(Error::new(
            Code::UnsafeRegistration,
            format!("the shard keys of {} and {other} do not compare alike", table.name),
        )
        .hint("colocated tables need as many key columns, of the same affinity and collation"));
    }
    let others: Vec<GroupId> = placement.shards.iter().copied().filter(|shard| *shard != HOME_SHARD).collect();
    define(driver, registry, &[table], &others).await?;
    let all_home = placement.owners().all(|owner| owner == HOME_SHARD);
    let into = NewHome::Existing { rows_may_stay: all_home };
    let (_, home_epoch) = leave_home(driver, table, into, next_version(registry)).await?;
    Ok(registered(table, key, placement.id, home_epoch, None))
}

fn registered(
    table: &Table,
    key: Vec<usize>,
    id: PlacementId,
    home_epoch: Epoch,
    placement: Option<Placement>,
) -> Vec<Effect> {
    let mut effects: Vec<Effect> = placement.map(Effect::Placement).into_iter().collect();
    effects.push(Effect::Register { table: table.name.clone(), placement: id, key });
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
    let mut placement = registry.placements[&table.placement].clone();
    if placement.shards.contains(&shard) {
        return Ok(vec![]);
    }
    if placement.id == HOME {
        return Err(Error::new(Code::Conflict, format!("{} is not sharded", table.name)).hint("register it first"));
    }
    let tables: Vec<&Table> = registry.tables.values().filter(|t| t.placement == placement.id).collect();
    define(driver, registry, &tables, &[shard]).await?;
    placement.shards.push(shard);
    placement.shards.sort();
    Ok(vec![Effect::Placement(placement)])
}

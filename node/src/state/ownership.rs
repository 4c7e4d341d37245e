//! The law: which slots this shard owns, by its own replicated table.
//!
//! Writes are checked against the copy in memory inside apply; reads against the table, inside their
//! read transaction, so that what they read and what was checked are of one moment.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{Epoch, PlacementId, SchemaVersion, Slot};
use flotilla_shared::registry::SlotSet;
use flotilla_shared::wire::{Claim, Level, Route};
use rusqlite::{Connection, OptionalExtension};

use super::moves::Moves;
use super::store::Applied;

/// What a shard owns of one placement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Raised with every change.
    pub epoch: Epoch,
    /// The slots.
    pub slots: SlotSet,
}

/// What a shard owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// By placement.
    pub placements: HashMap<PlacementId, Owned>,
}

impl Ownership {
    /// Reads the table.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut query = db.prepare("SELECT placement, epoch, slots FROM _flotilla_ownership")?;
        let rows = query.query_map([], |row| Ok((PlacementId(row.get(0)?), owned(row, 1)?)))?;
        Ok(Self { placements: rows.collect::<Result<_, _>>()? })
    }

    /// Writes what is owned of a placement.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn set(&mut self, db: &Connection, placement: PlacementId, owned: Owned) -> rusqlite::Result<()> {
        db.prepare_cached("REPLACE INTO _flotilla_ownership (placement, epoch, slots) VALUES (?1, ?2, ?3)")?.execute(
            rusqlite::params![
                placement.0,
                owned.epoch.0 as i64,
                postcard::to_stdvec(&owned.slots).expect("slot sets encode")
            ],
        )?;
        self.placements.insert(placement, owned);
        Ok(())
    }

    /// Forgets what is owned of a placement.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn remove(&mut self, db: &Connection, placement: PlacementId) -> rusqlite::Result<()> {
        db.prepare_cached("DELETE FROM _flotilla_ownership WHERE placement = ?1")?.execute([placement.0])?;
        self.placements.remove(&placement);
        Ok(())
    }

    /// Does everything that a plan relies on hold here?
    ///
    /// # Errors
    /// [`Code::StaleRoute`].
    pub fn check(&self, schema: SchemaVersion, route: &Route) -> Result<(), Error> {
        check_schema(schema, route)?;
        route.claims.iter().try_for_each(|claim| check_claim(self.placements.get(&claim.placement), claim))
    }
}

/// The law as one read transaction sees it: the tables are asked once for what several reads rely on.
pub struct Seen<'db> {
    db: &'db Connection,
    schema: SchemaVersion,
    owned: HashMap<PlacementId, Option<Owned>>,
    moves: Option<Moves>,
}

impl<'db> Seen<'db> {
    /// The law in the transaction that `db` is in.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn load(db: &'db Connection) -> rusqlite::Result<Self> {
        Ok(Self { db, schema: Applied::load(db)?.schema, owned: HashMap::new(), moves: None })
    }

    /// Does everything that a read's plan relies on hold here?
    ///
    /// # Errors
    /// [`Code::StaleRoute`], or what SQLite says.
    pub fn check(&mut self, route: &Route, level: Level) -> Result<(), Error> {
        check_schema(self.schema, route)?;
        // The registry learns of a move when the leader has none of the rows any more; other replicas may have some.
        if level == Level::None && route.claims.iter().any(|claim| claim.slots.is_none()) {
            self.moves().map_err(storage)?.check_left_over(route)?;
        }
        for claim in &route.claims {
            check_claim(self.owned(claim.placement).map_err(storage)?, claim)?;
        }
        Ok(())
    }

    fn moves(&mut self) -> rusqlite::Result<&Moves> {
        if self.moves.is_none() {
            self.moves = Some(Moves::load(self.db)?);
        }
        Ok(self.moves.get_or_insert_default())
    }

    fn owned(&mut self, placement: PlacementId) -> rusqlite::Result<Option<&Owned>> {
        let known = match self.owned.entry(placement) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let mut query =
                    self.db.prepare_cached("SELECT epoch, slots FROM _flotilla_ownership WHERE placement = ?1")?;
                unknown.insert(query.query_row([placement.0], |row| owned(row, 0)).optional()?)
            }
        };
        Ok(known.as_ref())
    }
}

fn storage(error: rusqlite::Error) -> Error {
    Error::new(Code::Storage, error.to_string())
}

fn check_schema(ours: SchemaVersion, route: &Route) -> Result<(), Error> {
    if route.schema < ours {
        return Err(stale(format!("planned with schema {}, this shard has {ours}", route.schema)));
    }
    Ok(())
}

fn check_claim(owned: Option<&Owned>, claim: &Claim) -> Result<(), Error> {
    let Some(owned) = owned else {
        return Err(stale(format!("this shard owns nothing of placement {}", claim.placement)));
    };
    match &claim.slots {
        Some(slots) => {
            let mut wanted = slots.ranges().iter().flat_map(|range| (range.first.0..=range.last.0).map(Slot));
            match wanted.find(|slot| !owned.slots.contains(*slot)) {
                None => Ok(()),
                Some(slot) => Err(stale(format!("slot {slot} of placement {} is not owned here", claim.placement))),
            }
        }
        None if owned.epoch == claim.epoch => Ok(()),
        None => Err(stale(format!(
            "planned with version {} of placement {}, this shard is at {}",
            claim.epoch, claim.placement, owned.epoch
        ))),
    }
}

fn stale(message: String) -> Error {
    Error::new(Code::StaleRoute, message).hint("the proxy plans it again; a client may simply retry")
}

/// Reads version and slots from two columns of a row.
fn owned(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Owned> {
    let slots = postcard::from_bytes(row.get_ref(column + 1)?.as_blob()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column + 1, rusqlite::types::Type::Blob, Box::new(error))
    })?;
    Ok(Owned { epoch: Epoch(row.get::<_, i64>(column)? as u64), slots })
}

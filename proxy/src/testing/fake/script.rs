//! Scripts on the fake node: on all shards of a placement, or on none.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::registry::{Effect, HOME};
use flotilla_shared::script::{ForeignKeys, Script};
use flotilla_shared::wire::StatementResult;
use rusqlite::config::DbConfig;

use super::{State, run};

impl State {
    pub(super) fn script(&mut self, script: &Script) -> Result<(Vec<Effect>, Vec<StatementResult>), Error> {
        if script.schema < self.registry.schema_version {
            return Err(Error::new(Code::StaleRoute, "stale"));
        }
        let placement = self.registry.placements[&script.placement].clone();
        let shards = script.shards(&placement);
        if let Some(done) = self.shards[&shards[0]].done.get(&script.request) {
            return Ok((vec![], done.clone()?));
        }
        let enforced = script.foreign_keys == ForeignKeys::Enforced;
        let mut results = vec![StatementResult::default(); script.statements.len()];
        let mut failed = None;
        for shard in &shards {
            let db = &self.shards[shard].db;
            db.execute_batch("SAVEPOINT script").unwrap();
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, enforced).unwrap();
            let places = script.places(&placement, *shard);
            let ran: Result<Vec<_>, Error> = places.iter().map(|place| run(db, &script.statements[*place])).collect();
            db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true).unwrap();
            let violations = db.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap();
            match ran {
                Ok(_) if violations && script.foreign_keys == ForeignKeys::Checked => {
                    failed = Some(Error::new(Code::Constraint, "FOREIGN KEY constraint failed"));
                }
                Ok(more) => {
                    for (place, result) in places.into_iter().zip(more) {
                        let before = results[place].rows_affected;
                        results[place] = StatementResult { rows_affected: before + result.rows_affected, ..result };
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        let end = if failed.is_some() { "ROLLBACK TO script; RELEASE script" } else { "RELEASE script" };
        for shard in &shards {
            self.shards[shard].db.execute_batch(end).unwrap();
        }
        if let Some(error) = failed {
            return Err(error);
        }
        self.shards.get_mut(&shards[0]).unwrap().done.insert(script.request, Ok(results.clone()));
        let mut effects = self.effect(script.placement)?;
        if script.home.contains(&true) {
            effects.extend(self.effect(HOME)?);
        }
        Ok((effects, results))
    }
}

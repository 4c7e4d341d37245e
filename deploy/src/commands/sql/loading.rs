//! Carries out a [load](super::load): sends its parts, checks foreign keys at its end, drops its tables again when
//! something fails.

use super::Level;
use super::load::{Part, undo};
use super::session::{Session, queries};
use super::splitter::Text;
use crate::commands::output::Results;
use crate::commands::{CommandError, call, parse};
use crate::http_client::Call;

impl Session {
    /// Sends a part. False: it failed, and the load is undone.
    pub async fn load(&mut self, part: &Part) -> Result<bool, CommandError> {
        if part.statements.is_empty() {
            return Ok(true);
        }
        let failed = self.failed();
        let body = serde_json::json!({
            "statements": queries(&part.statements), "transaction": true, "foreign_keys": "unchecked",
        });
        // What is not known to have failed is not undone: the part may have made its tables or not.
        self.send_together(&part.statements, &body).await?;
        if self.failed() > failed {
            self.unload().await?;
            return Ok(false);
        }
        self.made.extend(part.makes.iter().cloned());
        Ok(true)
    }

    /// All parts are in: checks foreign keys, and sends what goes last.
    pub async fn loaded(&mut self, rest: &Part) -> Result<(), CommandError> {
        let mut wrong = None;
        for table in self.made.iter().filter(|(what, _)| *what == "TABLE").map(|(_, name)| name.clone()) {
            let check = format!("PRAGMA foreign_key_check(\"{}\")", table.replace('"', "\"\""));
            let body = serde_json::json!({ "query": check }).to_string();
            let reply = call(&mut self.client, &Call::post(Level::query_path(None), body)).await;
            let found: Results = match reply {
                Ok(reply) => parse(&reply)?,
                Err(error) => {
                    wrong = Some(error.to_string());
                    break;
                }
            };
            let rows: usize = found.results.iter().map(|result| result.values.len()).sum();
            if rows > 0 {
                let row = found.results[0].values[0].iter().map(|value| value.get()).collect::<Vec<_>>().join(", ");
                wrong = Some(format!(
                    "error[constraint]: FOREIGN KEY constraint failed: {rows} rows of {table} refer to no row; the \
                     first, as PRAGMA foreign_key_check shows it: {row}"
                ));
                break;
            }
        }
        if let Some(why) = wrong {
            self.fail(0, &why);
            self.unload().await?;
            return Ok(());
        }
        self.load(rest).await?;
        self.made.clear();
        Ok(())
    }

    /// Drops what the load has made. False: there was no load.
    pub async fn unload(&mut self) -> Result<bool, CommandError> {
        let made = std::mem::take(&mut self.made);
        if made.is_empty() {
            return Ok(false);
        }
        let statements: Vec<Text> = undo(&made).into_iter().map(|text| Text { text, line: 0 }).collect();
        let body = serde_json::json!({
            "statements": queries(&statements), "transaction": true, "foreign_keys": "unchecked",
        });
        let failed = self.failed();
        self.send_together(&statements, &body).await?;
        let names: Vec<&str> = made.iter().map(|(_, name)| name.as_str()).collect();
        match self.failed() > failed {
            true => self.note(&format!("the load has left {}; drop them", names.join(", "))),
            false => self.note(&format!("the load was undone: {} were dropped again", names.join(", "))),
        }
        Ok(true)
    }
}

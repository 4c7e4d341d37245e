//! Cuts a difference down to few tables, few rows and a short statement, by trying on the cluster that
//! showed it: tables are dropped and made anew, rows are inserted, and the statement is run on both.
//!
//! Input: a [`Finding`]. Output: a script for people, with the registrations as comments.

use std::collections::BTreeSet;

use super::compare::{Verdict, compare};
use super::local::Local;
use super::remote::{Remote, registration};
use super::run::{answers, apply, content};
use super::schema::{Placement, Schema};
use super::statement::{Binding, Case, render};
use flotilla_shared::value::Params;
use flotilla_shared::wire::Statement;

/// A difference.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The statement that showed it.
    pub case: Case,
    /// How.
    pub what: String,
    /// What had been written before.
    pub rows: Vec<Case>,
    /// What differs is the content of a table after writes that seemed equal.
    pub content: bool,
}

impl Finding {
    /// Findings of one sort are probably one fault.
    pub fn sort(&self) -> String {
        let what: String = self.what.chars().filter(|c| !c.is_ascii_digit()).take(60).collect();
        let rows = ["row ", "rows ", " row", "types", "columns"].iter().find(|start| what.starts_with(**start));
        format!("{:?} {}", self.case.kind, rows.map_or(what.as_str(), |start| start))
    }
}

struct Trial<'a> {
    remote: &'a mut Remote,
    schema: Schema,
    content: bool,
    tries: u32,
    max_tries: u32,
}

/// A script that shows the difference, as short as it could be made.
pub async fn shrink(remote: &mut Remote, schema: &Schema, finding: &Finding, max_tries: u32) -> String {
    remote.remove(schema).await;
    let mut trial = Trial { schema: schema.clone(), remote, content: finding.content, tries: 0, max_tries };
    let (mut case, mut rows) = (finding.case.clone(), finding.rows.clone());
    let mut what = finding.what.clone();
    match trial.differs(&rows, &case).await {
        Some(again) => what = again,
        None => what.push_str(" (not seen again when tried with fresh tables)"),
    }
    trial.remote.remove(schema).await;
    let kept = needed(&trial.schema, &case);
    let all = std::mem::replace(&mut trial.schema, kept);
    let inline = Case { sql: case.inline.clone(), params: Params::default(), ..case.clone() };
    if trial.differs(&rows, &inline).await.is_some() {
        case = inline;
    } else if trial.differs(&rows, &case).await.is_none() {
        trial.schema = all;
    }
    let names: Vec<String> = trial.schema.tables.iter().map(|table| table.name.clone()).collect();
    rows.retain(|row| names.iter().any(|name| mentions(&row.sql, name)));
    rows = trial.fewer(rows, async |trial, rows| trial.differs(rows, &case).await.is_some()).await;
    if !finding.content && case.params == Params::default() {
        let words = words(&case.sql);
        let short = trial
            .fewer(words, async |trial, words| {
                let case = Case { sql: words.concat(), ..case.clone() };
                trial.sensible(&rows, &case) && trial.differs(&rows, &case).await.is_some()
            })
            .await;
        case.sql = short.concat();
        rows = trial.fewer(rows, async |trial, rows| trial.differs(rows, &case).await.is_some()).await;
    }
    if let Some(again) = trial.differs(&rows, &case).await {
        what = again;
    }
    trial.remote.remove(schema).await;
    script(&trial.schema, trial.remote.shards, &rows, &case, finding, &what)
}

/// A script that shows the difference, with all that was there.
pub fn whole(schema: &Schema, shards: u32, finding: &Finding) -> String {
    script(schema, shards, &finding.rows, &finding.case, finding, &finding.what)
}

/// Tables and views that a statement is about.
fn needed(schema: &Schema, case: &Case) -> Schema {
    let views: Vec<_> = schema.views.iter().filter(|view| mentions(&case.sql, &view.name)).cloned().collect();
    let mut names: BTreeSet<String> = BTreeSet::new();
    for table in &schema.tables {
        let used = mentions(&case.sql, &table.name) || views.iter().any(|view| mentions(&view.create, &table.name));
        if used {
            names.insert(table.name.clone());
            names.extend(table.colocate_with.clone());
        }
    }
    Schema {
        tables: schema.tables.iter().filter(|table| names.contains(&table.name)).cloned().collect(),
        views,
        indexes: schema.indexes.iter().filter(|index| names.contains(&index.table)).cloned().collect(),
    }
}

/// Does `name` stand in `sql` as a word, in capitals or not?
fn mentions(sql: &str, name: &str) -> bool {
    sql.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word.eq_ignore_ascii_case(name))
}

/// The words of a statement, each with the space before it.
fn words(sql: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![];
    let mut chars = sql.chars().peekable();
    while let Some(c) = chars.next() {
        let mut word = c.to_string();
        let part_of_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        match c {
            '\'' | '"' => {
                for next in chars.by_ref() {
                    word.push(next);
                    if next == c {
                        break;
                    }
                }
            }
            _ if part_of_word(c) || c == ' ' => {
                while let Some(next) = chars.next_if(|next| part_of_word(*next)) {
                    word.push(next);
                }
            }
            _ => (),
        }
        words.push(word);
    }
    words
}

impl Trial<'_> {
    /// Removes what is not needed, in ever smaller pieces.
    async fn fewer<T: Clone>(
        &mut self,
        mut list: Vec<T>,
        mut still: impl AsyncFnMut(&mut Self, &[T]) -> bool,
    ) -> Vec<T> {
        let mut size = list.len().div_ceil(2);
        while size > 0 && !list.is_empty() {
            let (mut at, mut removed) = (0, false);
            while at < list.len() {
                let end = (at + size).min(list.len());
                let rest: Vec<T> = [&list[..at], &list[end..]].concat();
                if self.tries < self.max_tries && still(self, &rest).await {
                    (list, removed) = (rest, true);
                } else {
                    at = end;
                }
            }
            size = match size {
                1 if removed && self.tries < self.max_tries => 1,
                1 => 0,
                _ => size.div_ceil(2),
            };
        }
        list
    }

    fn fresh(&self, rows: &[Case]) -> Local {
        let local = Local::new();
        for statement in self.schema.create() {
            local.setup(&statement);
        }
        for row in rows {
            local.run(&row.statement());
        }
        local
    }

    /// Does SQLite still take the statement, and has it one answer?
    fn sensible(&self, rows: &[Case], case: &Case) -> bool {
        let local = self.fresh(rows);
        let shadow = local.shadow(&self.schema);
        let fails = |case: &Case| matches!(local.run(&case.statement()), super::Outcome::Failed { .. });
        if case.kind.writes() {
            return !fails(case);
        }
        !fails(case) && case.rule.unlimited.is_none() && answers(&local, &shadow, case).is_ok()
    }

    /// How the results differ when everything is made anew; `None` when they do not.
    async fn differs(&mut self, rows: &[Case], case: &Case) -> Option<String> {
        self.tries += 1;
        self.remote.remove(&self.schema).await;
        self.remote.create(&mut self.schema).await;
        let local = Local::new();
        for statement in self.schema.create() {
            local.setup(&statement);
        }
        let statements: Vec<Statement> = rows.iter().map(Case::statement).collect();
        for (row, found) in rows.iter().zip(self.remote.run(&statements).await) {
            apply(&local, row, &found);
        }
        if self.content {
            return content(&local, self.remote, &self.schema).await.map(|(_, what)| what);
        }
        let found = self.remote.run(&[case.statement()]).await.remove(0);
        let verdict = match case.kind.writes() {
            true => apply(&local, case, &found),
            false => match answers(&local, &local.shadow(&self.schema), case) {
                Ok((wanted, all)) => compare(&wanted, &found, &case.rule, all.as_ref()),
                Err(_) => Verdict::Same,
            },
        };
        match verdict {
            Verdict::Different(what) => Some(what),
            _ => None,
        }
    }
}

fn script(schema: &Schema, shards: u32, rows: &[Case], case: &Case, finding: &Finding, what: &str) -> String {
    let mut lines = vec![];
    for table in &schema.tables {
        lines.push(format!("{};", table.create()));
        if !table.shard_key.is_empty() || table.placement == Placement::Reference {
            lines.push(format!("-- POST /table/register {}", registration(table, shards)));
        }
    }
    lines.extend(schema.indexes.iter().map(|index| format!("{};", index.create)));
    lines.extend(schema.views.iter().map(|view| format!("{};", view.create)));
    lines.extend(rows.iter().map(|row| format!("{};", row.inline)));
    lines.push(format!("{};", case.sql));
    if case.params != Params::default() {
        lines.push(format!("-- args {:?}", case.params));
    }
    lines.push(format!("-- {what}"));
    if case.sql != finding.case.sql {
        lines.push(format!("-- at first: {}", render(&finding.case.inline, &[], Binding::Inline).0));
    }
    lines.join("\n")
}

//! Transactions that change the schema, or in which foreign keys do not act: jobs, as schema statements are.
//!
//! They are tried on the mirror first ([`try_script`]), which says where they run. The job is named by the request,
//! so a retry finds it; when the registry no longer lists it, the retry makes a new one, and the first shard, which
//! remembers the request, gives the first results. A transaction that waited while the schema changed is tried
//! anew, under a further name. See [`flotilla_shared::script`] for what a crash at each step means.

use std::sync::Arc;

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::{JobId, RequestId};
use flotilla_shared::registry::{Job, JobKind, JobState, Registry};
use flotilla_shared::script::{ForeignKeys, MAX_SCRIPT_BYTES, MAX_SCRIPT_STATEMENTS, Script};
use flotilla_shared::value::Value;
use flotilla_shared::wire::{Rows, Statement, StatementResult};

use crate::Proxy;
use crate::execute::Options;
use crate::mirror::script::{Role, Setting, Settings, Trial, is_script, try_script};
use crate::respond::Output;

/// How often a transaction is tried anew because the schema changed while it waited.
const MAX_ATTEMPTS: u64 = 16;

impl Proxy {
    /// Runs statements as one transaction, whatever they are.
    pub(crate) async fn run_unit(
        &self,
        statements: &[Statement],
        foreign_keys: Option<ForeignKeys>,
        options: &Options,
    ) -> Result<Vec<Output>, Error> {
        let special = foreign_keys.is_some_and(|keys| keys != ForeignKeys::Enforced);
        if statements.is_empty() || !(special || is_script(statements)) {
            return self.run_transaction(statements, options).await;
        }
        if options.shard.is_some() {
            return Err(Error::new(
                Code::Unroutable,
                "a transaction that changes the schema runs where its tables are",
            )
            .hint("leave out auto_route=false"));
        }
        check_size(statements)?;
        for attempt in 0..MAX_ATTEMPTS {
            let request = RequestId::from_key(&format!("{} script {attempt}", options.id));
            let registry = self.refreshed(options.deadline).await?;
            let known = registry.jobs.values().find(|job| job.request == request);
            let (id, trial) = match known {
                Some(job) => (job.id, None),
                None => {
                    let trial = try_apart(&registry, statements, foreign_keys).await?;
                    if trial.statements.is_empty() || is_plain(&trial) {
                        return self.run_plain(statements, &trial, options).await;
                    }
                    let script = Script {
                        request: options.id,
                        schema: registry.schema_version,
                        placement: trial.placement,
                        statements: trial.statements.clone(),
                        home: trial.home.clone(),
                        foreign_keys: trial.foreign_keys,
                    };
                    (self.start(request, JobKind::Script(script), options.deadline).await?, Some(trial))
                }
            };
            match self.finish(id, options.deadline).await {
                Err(error) if error.code == Code::StaleRoute => continue,
                finished => finished?,
            }
            let roles = match trial {
                Some(trial) => trial.roles,
                None => roles_of(statements, foreign_keys),
            };
            return answer(&roles, self.cluster.registry().jobs.get(&id), id);
        }
        Err(Error::new(Code::Unavailable, "the schema changes too often").hint("retry"))
    }

    /// Runs a transaction whose PRAGMAs ask for what is so anyway, or a single statement that stands alone.
    async fn run_plain(
        &self,
        statements: &[Statement],
        trial: &Trial,
        options: &Options,
    ) -> Result<Vec<Output>, Error> {
        let mut outputs = Box::pin(self.run_transaction(&trial.statements, options)).await?.into_iter();
        let mut all = Vec::with_capacity(trial.roles.len());
        for (statement, role) in statements.iter().zip(&trial.roles) {
            all.push(match (role, not_run(*role)) {
                // No script runs it, or looks at the rows.
                (Role::Check | Role::Schema, _) => Box::pin(self.run(statement, 0, options)).await?,
                (_, Some(output)) => output,
                (_, None) => outputs.next().ok_or_else(|| Error::new(Code::Internal, "a statement was lost"))?,
            });
        }
        Ok(all)
    }
}

/// Rows alone, with foreign keys as always: no job is needed.
fn is_plain(trial: &Trial) -> bool {
    trial.foreign_keys == ForeignKeys::Enforced && !trial.roles.contains(&Role::Schema)
}

fn check_size(statements: &[Statement]) -> Result<(), Error> {
    let bytes: usize = statements.iter().map(|one| one.sql.len() + one.params.size_bytes()).sum();
    if bytes <= MAX_SCRIPT_BYTES && statements.len() <= MAX_SCRIPT_STATEMENTS {
        return Ok(());
    }
    let message = format!(
        "a transaction that changes the schema, or runs without foreign keys, has {} statements and {bytes} bytes, \
         over {MAX_SCRIPT_STATEMENTS} or {MAX_SCRIPT_BYTES}",
        statements.len()
    );
    Err(Error::new(Code::TooLarge, message).hint("insert rows in transactions of their own"))
}

/// SQLite may take a while over a long transaction.
async fn try_apart(
    registry: &Arc<Registry>,
    statements: &[Statement],
    foreign_keys: Option<ForeignKeys>,
) -> Result<Trial, Error> {
    let (registry, statements) = (Arc::clone(registry), statements.to_vec());
    let tried = tokio::task::spawn_blocking(move || try_script(&registry, &statements, foreign_keys)).await;
    tried.map_err(|_| Error::new(Code::Internal, "a transaction could not be tried"))?
}

/// What the statements of a retry are, which may no longer prepare.
fn roles_of(statements: &[Statement], foreign_keys: Option<ForeignKeys>) -> Vec<Role> {
    use crate::lex::Tokens;
    let mut settings = Settings::new(foreign_keys);
    let mut role = |statement: &Statement| {
        let Ok(tokens) = Tokens::read(&statement.sql) else { return Role::Write };
        if let Ok(Some(role)) = settings.take(&tokens) {
            return role;
        }
        let is = |words: &[&str]| words.iter().any(|word| tokens.is_word(0, word));
        match () {
            () if is(&["CREATE", "ALTER", "DROP", "REINDEX"]) => Role::Schema,
            () if is(&["SELECT", "VALUES"]) => Role::Rows,
            () => Role::Write,
        }
    };
    statements.iter().map(&mut role).collect()
}

/// The outputs of all statements, from the results of those that ran.
fn answer(roles: &[Role], job: Option<&Job>, id: JobId) -> Result<Vec<Output>, Error> {
    let forgotten = || Error::new(Code::ResultForgotten, format!("the transaction was applied by job {id}"));
    let results = job.filter(|job| job.state == JobState::Done).map(|job| &job.results).ok_or_else(forgotten)?;
    let run = roles.iter().filter(|role| role.runs()).count();
    if run != results.len() {
        return Err(forgotten());
    }
    let mut results = results.iter().cloned();
    let outputs = roles
        .iter()
        .map(|role| not_run(*role).unwrap_or_else(|| output(*role, results.next().unwrap_or_default(), id)));
    Ok(outputs.collect())
}

fn output(role: Role, result: StatementResult, id: JobId) -> Output {
    match role {
        Role::Schema => Output::Schema(Some(id)),
        Role::Rows => Output::Rows(result.rows.unwrap_or_default()),
        _ => Output::Write(result),
    }
}

/// What a PRAGMA of a transaction answers, which no shard runs; `None` for any other statement.
fn not_run(role: Role) -> Option<Output> {
    match role {
        Role::Setting => Some(Output::Schema(None)),
        Role::Check => Some(Output::Rows(no_violations())),
        Role::Read(setting, value) => Some(Output::Rows(value_of(setting, value))),
        Role::Rows | Role::Write | Role::Schema => None,
    }
}

/// What `PRAGMA foreign_keys` and its like answer without a value.
fn value_of(setting: Setting, value: bool) -> Rows {
    let columns = vec![setting.name().to_owned()];
    Rows { columns, types: vec![String::new()], values: vec![vec![Value::Integer(value.into())]] }
}

/// What `PRAGMA foreign_key_check` answers where nothing is wrong.
fn no_violations() -> Rows {
    let columns = ["table", "rowid", "parent", "fkid"].map(str::to_owned).to_vec();
    Rows { types: vec![String::new(); columns.len()], columns, values: vec![] }
}

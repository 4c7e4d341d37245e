//! Runs generated statements on clusters and on SQLite, any number of them:
//! `differential --seed 7 --statements 100000 --shards 1,3`; or scripts: `differential --scripts 100`. Exits
//! with 1 if a result differs.

use std::process::ExitCode;
use std::time::Instant;

use flotilla_tests::differential::run::{MAX_TRIES, Seen, run_on};
use flotilla_tests::differential::scripts::{ScriptOptions, run_scripts};
use flotilla_tests::differential::{Options, Remote, run};

const USAGE: &str = "differential [--seed S] [--statements N] [--shards 1,2,3,7] [--max-failures N] \
                     [--max-tries N] [--every] [--scripts N] [--at HOST:PORT]";

struct Arguments {
    options: Options,
    scripts: u64,
    at: Option<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let options = Options {
        seed: 1,
        statements: 2000,
        shards: vec![1, 2, 3, 7],
        max_failures: 10,
        max_tries: MAX_TRIES,
        every: false,
    };
    let mut arguments = Arguments { options, scripts: 0, at: None };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--seed" => arguments.options.seed = number(&value()?)?,
            "--statements" => arguments.options.statements = number(&value()?)?,
            "--max-failures" => arguments.options.max_failures = number(&value()?)? as usize,
            "--every" => arguments.options.every = true,
            "--max-tries" => arguments.options.max_tries = number(&value()?)? as u32,
            "--scripts" => arguments.scripts = number(&value()?)?,
            "--shards" => {
                let list = value()?;
                let list: Result<Vec<u64>, String> = list.split(',').map(number).collect();
                arguments.options.shards = list?.into_iter().map(|shards| shards as u32).collect();
            }
            "--at" => arguments.at = Some(value()?),
            _ => return Err(format!("{word} is not understood")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let options = &arguments.options;
    if arguments.scripts > 0 {
        return scripts(options, arguments.scripts);
    }
    let report = match &arguments.at {
        Some(address) => {
            let shards = options.shards.first().copied().unwrap_or(1);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { run_on(&mut Remote::at(address, shards), options, &Seen::default()).await })
        }
        None => run(options),
    };
    println!("{report}seed {} in {:.1} s", options.seed, start.elapsed().as_secs_f64());
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Runs scripts on one cluster after the other.
fn scripts(options: &Options, scripts: u64) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut differences = 0;
    for shards in options.shards.iter().copied() {
        let (seed, max_failures) = (options.seed, options.max_failures);
        let report = runtime.block_on(run_scripts(&ScriptOptions { seed, scripts, shards, max_failures }));
        println!("{report}");
        differences += report.failures.len();
    }
    if differences == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

//! Runs simulations by seed: `sim --seeds 1000`, `sim --from 5000 --seeds 1000`, `sim --seed 17 --trace`.
//! `--bug NAME` puts a bug in. Exits with 1 if a rule was broken, with 2 if it does not understand.

use std::process::ExitCode;
use std::time::Instant;

use flotilla_tests::sim::suite::run_all;
use flotilla_tests::sim::{Bug, Options};

struct Arguments {
    from: u64,
    seeds: u64,
    threads: usize,
    trace: bool,
    bug: Option<Bug>,
}

const USAGE: &str = "sim [--seed S | --from S --seeds N] [--threads N] [--trace] [--bug NAME]";

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { from: 0, seeds: 200, threads: 2, trace: false, bug: None };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
        match word.as_str() {
            "--seed" => (arguments.from, arguments.seeds) = (number(value()?)?, 1),
            "--from" => arguments.from = number(value()?)?,
            "--seeds" => arguments.seeds = number(value()?)?,
            "--threads" => arguments.threads = number(value()?)? as usize,
            "--trace" => arguments.trace = true,
            "--bug" => {
                let name = value()?;
                let known = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
                arguments.bug = Some(known.ok_or(format!("no such bug: {name}; there are {:?}", Bug::ALL))?);
            }
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
    let seeds: Vec<u64> = (arguments.from..arguments.from + arguments.seeds).collect();
    let start = Instant::now();
    let (mut failed, mut virtual_ms, mut answered, mut compared) = (Vec::new(), 0, 0, 0);
    let options = |seed| Options { seed, trace: arguments.trace, bug: arguments.bug };
    run_all(&seeds, arguments.threads, options, |report| {
        virtual_ms += report.virtual_ms;
        answered += report.counts.acknowledged;
        compared += report.counts.compared;
        if !report.violations.is_empty() {
            println!("{report}\n");
            failed.push(report.seed);
        }
        true
    });
    println!(
        "{} seeds in {:.1} s: {} s of virtual time, {answered} writes answered, {compared} content hashes compared",
        seeds.len(),
        start.elapsed().as_secs_f64(),
        virtual_ms / 1000
    );
    failed.sort_unstable();
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => {
            println!("failed: {failed:?}");
            ExitCode::from(1)
        }
    }
}

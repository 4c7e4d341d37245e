//! Properties checked on generated values, from a seed.
//!
//! In the suite each runs a fixed number of cases from one seed. `FLOTILLA_FUZZ_SECONDS=<n>` goes on
//! with new seeds for that long, `FLOTILLA_SEED=<n>` runs that seed alone. A failure is shrunk, and
//! printed with its seed.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What a single case may take, on a machine that does much else: what runs away takes longer.
pub const CASE_LIMIT: Duration = Duration::from_secs(10);

/// Checks a property, which panics when it does not hold.
pub fn check<S: Strategy>(name: &str, cases: u32, strategy: &S, property: impl Fn(S::Value))
where
    S::Value: Debug,
{
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let end = Instant::now() + Duration::from_secs(number("FLOTILLA_FUZZ_SECONDS").unwrap_or(0));
    let mut seed = number("FLOTILLA_SEED").unwrap_or(1);
    loop {
        run(name, cases, seed, strategy, &property);
        if Instant::now() >= end {
            return;
        }
        // Other seeds in each run, or going on would only repeat the last one.
        seed = seed.wrapping_add(u64::from(std::process::id()) << 32 | 1);
    }
}

fn run<S: Strategy>(name: &str, cases: u32, seed: u64, strategy: &S, property: &impl Fn(S::Value))
where
    S::Value: Debug,
{
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 5000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let outcome = runner.run(strategy, |value| {
        let start = Instant::now();
        property(value);
        let took = start.elapsed();
        assert!(took < CASE_LIMIT, "one case took {took:?}");
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}, FLOTILLA_SEED={seed}: {error}");
    }
}

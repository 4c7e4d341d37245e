//! Durations on the command line: `10s`, `500ms`, `2m`, `1h`, `1.5s`; a bare number is seconds.

use std::time::Duration;

/// Longer than anyone benchmarks or waits, and far from overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a duration.
///
/// # Errors
/// What is wrong with the text, for `clap` to show.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit.trim() {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` is no unit of time; use us, ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no duration; write 10s, 500ms or 2m"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit)
        .ok()
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// `1.2 ms`, `3.4 s`: for people.
pub fn show(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 1e-3 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{:.0} µs", seconds * 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every unit, fractions, a bare number; nonsense is refused with a reason.
    #[test]
    fn durations() {
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse("1 h"), Ok(Duration::from_secs(3600)));
        assert!(parse("").is_err() && parse("s").is_err() && parse("-1s").is_err());
        assert!(parse("1 fortnight").unwrap_err().contains("fortnight"));
        assert!(parse("99999999999h").is_err());
    }

    /// Three magnitudes.
    #[test]
    fn shown() {
        assert_eq!(show(Duration::from_micros(250)), "250 µs");
        assert_eq!(show(Duration::from_micros(1250)), "1.2 ms");
        assert_eq!(show(Duration::from_millis(2500)), "2.50 s");
    }
}

//! Which writes met compaction.
//!
//! Input: looks at how long the nodes have been compacting in all, and when writes began and ended. Between two
//! looks lies a slice; where the time has grown, compaction was under way in it. A write belongs to compaction
//! if it overlaps any such slice, so what a checkpoint holds up counts there, even if it ends later.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::super::driver::histogram;

/// One look at all nodes.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// When they were asked.
    pub asked: Instant,
    /// When all had answered.
    pub answered: Instant,
    /// How long they have been compacting since their start, added up.
    pub busy_s: f64,
}

/// Latencies without and with compaction, in microseconds.
pub struct Slices {
    /// Of writes during which nobody compacted.
    pub quiet_us: Histogram<u64>,
    /// Of writes during which somebody did.
    pub busy_us: Histogram<u64>,
    /// Share of the time in slices with compaction.
    pub busy_share: f64,
}

impl Slices {
    /// A percentile with compaction, as a multiple of that without; none if one of the two has no writes.
    pub fn ratio(&self, quantile: f64) -> Option<f64> {
        let [quiet, busy] = [&self.quiet_us, &self.busy_us];
        let both = !quiet.is_empty() && !busy.is_empty();
        both.then(|| busy.value_at_quantile(quantile) as f64 / quiet.value_at_quantile(quantile).max(1) as f64)
    }
}

/// Sorts writes, given as begin and end. Those that were not under observation all the time are left out.
pub fn sort(looks: &[Look], writes: &[(Instant, Instant)]) -> Slices {
    // From asking for the one to the answer to the next: the nodes looked at some moment in between.
    let slices: Vec<(Instant, Instant, bool)> =
        looks.windows(2).map(|two| (two[0].asked, two[1].answered, two[1].busy_s > two[0].busy_s)).collect();
    let mut sorted = Slices { quiet_us: histogram(), busy_us: histogram(), busy_share: 0.0 };
    let (Some(first), Some(last)) = (slices.first(), slices.last()) else { return sorted };
    for (begin, end) in writes.iter().filter(|(begin, end)| *begin >= first.0 && *end <= last.1) {
        let from = slices.partition_point(|(_, until, _)| until < begin);
        let busy = slices[from..].iter().take_while(|(since, ..)| since <= end).any(|(.., busy)| *busy);
        let us = u64::try_from((*end - *begin).as_micros()).unwrap_or(u64::MAX).max(1);
        if busy { &mut sorted.busy_us } else { &mut sorted.quiet_us }.saturating_record(us);
    }
    let time = |only_busy: bool| -> Duration {
        let two = looks.windows(2).filter(|two| !only_busy || two[1].busy_s > two[0].busy_s);
        two.map(|two| two[1].asked - two[0].asked).sum()
    };
    sorted.busy_share = time(true).as_secs_f64() / time(false).as_secs_f64().max(1e-9);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of four slices one has compaction: what overlaps it counts there, also if it began before or ended
    /// later; what nobody watched counts nowhere.
    #[test]
    fn overlaps() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let look = |ms, busy_s| Look { asked: at(ms), answered: at(ms + 1), busy_s };
        let looks = [look(100, 1.0), look(200, 1.0), look(300, 1.01), look(400, 1.01), look(500, 1.01)];
        let quiet = [(110, 120), (120, 198), (302, 310), (450, 490)];
        let busy = [(150, 201), (200, 250), (199, 480), (295, 320)];
        let unseen = [(90, 120), (490, 600)];
        let writes: Vec<(Instant, Instant)> =
            quiet.iter().chain(&busy).chain(&unseen).map(|(begin, end)| (at(*begin), at(*end))).collect();
        let sorted = sort(&looks, &writes);
        assert_eq!((sorted.quiet_us.len(), sorted.busy_us.len()), (4, 4));
        assert!((280_000..=282_000).contains(&sorted.busy_us.max()), "{}", sorted.busy_us.max());
        assert_eq!(sorted.busy_share, 0.25);
        let ratio = sorted.ratio(1.0).unwrap();
        assert!((3.5..3.7).contains(&ratio), "{ratio}");
        assert_eq!(sort(&looks[..1], &writes).ratio(0.5), None);
    }
}

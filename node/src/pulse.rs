//! The pulse: the moments at which all groups that this node leads send their heartbeats.
//!
//! Left to openraft, each leader sends its own at a moment of its own: with many groups a timer and a wake-up of
//! this node and of each peer for every one of them, all the time, also when nobody asks for anything. Here one
//! timer beats for all, so that what goes to a peer goes together and wakes it once. The host enters each replica
//! ([`Pulse::join`]) and is asked for nothing more: who leads is looked up at each beat, and who was dropped is left
//! out.
//!
//! At each beat it is also settled whether a replica has to watch the clock, which openraft does some thirty times a
//! second. Only one that may have to stand for election does: no leader, and no follower whose leader has just spoken
//! ([`Ear`]). So while nothing happens, nothing wakes a replica but heartbeats.
//!
//! Each replica waits for the beats in a task of its own, so one whose queue is full holds up no other. It finds one
//! beat behind it, not a pile of them, and misses nothing by that: while its core is busy, a heartbeat would wait too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// What beats. A trait, so that a test can hold one up.
pub trait Heart: Send + Sync + 'static {
    /// Does what is due at a beat; false once there never will be anything to do.
    fn beat(&self) -> impl Future<Output = bool> + Send;
}

/// Whether a follower's leader has spoken lately.
pub struct Ear {
    start: Instant,
    /// Milliseconds from `start` to when it last did, and one; 0 when it never did.
    heard_ms: AtomicU64,
    patience: Duration,
}

impl Ear {
    /// For a replica that beats with `pause` and does not stand for election before a silence of `election_min`. By
    /// then it watches the clock: the last beat before sees a silence of one pause less.
    pub fn new(pause: Duration, election_min: Duration) -> Self {
        Self { start: Instant::now(), heard_ms: AtomicU64::new(0), patience: election_min.saturating_sub(pause) }
    }

    /// The leader has spoken, and the replica has answered that it follows. That answer may have waited for the disk;
    /// should the leader be gone by then, an election begins later by no more than that patience.
    pub fn hears(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Has it spoken lately?
    pub fn heard(&self) -> bool {
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        heard_ms > 0 && u128::from(self.now_ms().saturating_sub(heard_ms)) < self.patience.as_millis()
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }
}

/// The pulse of a node; it ends with this value.
pub struct Pulse {
    beats: Arc<watch::Sender<()>>,
}

impl Pulse {
    /// Beats from now on, with this pause between two.
    pub fn start(pause: Duration) -> Self {
        let beats = Arc::new(watch::channel(()).0);
        tokio::spawn(keep(pause, Arc::downgrade(&beats)));
        Self { beats }
    }

    /// Lets `heart` beat along until it is dropped.
    pub fn join(&self, heart: &Arc<impl Heart>) {
        tokio::spawn(follow(self.beats.subscribe(), Arc::downgrade(heart)));
    }
}

async fn keep(pause: Duration, beats: Weak<watch::Sender<()>>) {
    let mut moments = interval(pause);
    // A machine that was suspended has nothing to make up for.
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        moments.tick().await;
        match beats.upgrade() {
            Some(beats) => beats.send_replace(()),
            None => return,
        };
    }
}

async fn follow(mut beats: watch::Receiver<()>, heart: Weak<impl Heart>) {
    while beats.changed().await.is_ok() {
        match heart.upgrade() {
            Some(heart) if heart.beat().await => (),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(5);

    /// Longest that a test waits: far beyond what it takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Counts its beats; the one with this number never ends.
    struct Counting {
        beats: watch::Sender<u64>,
        stuck_at: u64,
    }

    impl Counting {
        fn new(stuck_at: u64) -> Arc<Self> {
            Arc::new(Self { beats: watch::channel(0).0, stuck_at })
        }

        async fn reaches(&self, beats: u64) {
            let mut beaten = self.beats.subscribe();
            timeout(PATIENCE, beaten.wait_for(|beaten| *beaten >= beats)).await.expect("it beats").expect("it is here");
        }
    }

    impl Heart for Counting {
        async fn beat(&self) -> bool {
            self.beats.send_modify(|beats| *beats += 1);
            if *self.beats.borrow() == self.stuck_at {
                std::future::pending::<()>().await;
            }
            true
        }
    }

    /// A leader that never spoke, or has been silent for so long that the next beat could be too late, is not relied on.
    #[test]
    fn a_silent_leader_is_noticed_in_time() {
        let ear = |patience| Ear::new(Duration::from_millis(100), Duration::from_millis(100) + patience);
        let (soon, late) = (ear(Duration::ZERO), ear(PATIENCE));
        assert!(!soon.heard() && !late.heard());
        soon.hears();
        late.hears();
        assert!(!soon.heard() && late.heard());
        let silent = Ear { start: Instant::now().checked_sub(PATIENCE).unwrap(), ..ear(PATIENCE / 2) };
        silent.heard_ms.store(1, Ordering::Relaxed);
        assert!(!silent.heard());
        silent.hears();
        assert!(silent.heard());
    }

    /// One group is held up at its first beat, one at its third: all others go on, also one that came later.
    #[tokio::test]
    async fn a_group_that_is_held_up_holds_up_no_other() {
        let pulse = Pulse::start(PAUSE);
        let hearts = [1, 0, 3, 0].map(Counting::new);
        hearts.iter().for_each(|heart| pulse.join(heart));
        hearts[2].reaches(3).await;
        let late = Counting::new(0);
        pulse.join(&late);
        for heart in [&hearts[1], &hearts[3], &late] {
            heart.reaches(20).await;
        }
        assert_eq!([&hearts[0], &hearts[2]].map(|heart| *heart.beats.borrow()), [1, 3]);
    }

    /// A replica that is dropped is not kept by the pulse, and the pulse does not outlive its node.
    #[tokio::test]
    async fn what_is_dropped_beats_no_more() {
        let pulse = Pulse::start(PAUSE);
        let [gone, left] = [0, 0].map(Counting::new);
        pulse.join(&gone);
        pulse.join(&left);
        gone.reaches(1).await;
        let mut beats = gone.beats.subscribe();
        drop(gone);
        timeout(PATIENCE, async { while beats.changed().await.is_ok() {} }).await.expect("its counter is dropped");
        let sender = Arc::downgrade(&pulse.beats);
        drop(pulse);
        timeout(PATIENCE, async {
            while Arc::weak_count(&left) > 0 || sender.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("its tasks have ended");
    }
}

//! Who may use which round.

use tokio::sync::Mutex;

use super::*;
use crate::state::store::Inline;

/// Long for a test, short for somebody who waits for its failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proof that tells when it begins, and ends when it is told to.
struct Slow {
    begun: mpsc::UnboundedSender<()>,
    ends: Mutex<mpsc::UnboundedReceiver<()>>,
}

impl Proof for Slow {
    async fn prove(&self, _: SchemaVersion) -> Result<(), Error> {
        self.begun.send(()).expect("the test listens");
        self.ends.lock().await.recv().await.expect("the test goes on");
        Ok(())
    }
}

/// Reads that come while a round is under way wait for the next one: another replica may have taken over since it
/// began and acknowledged a write that they must see. One of them comes so early that the round notices it, one
/// at the last moment.
#[tokio::test]
async fn a_round_is_not_for_those_who_come_during_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _db) = Store::open(folder.path(), Arc::new(Inline), 1).unwrap();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let (end, ends) = mpsc::unbounded_channel();
    let (sender, queue) = mpsc::channel(MAX_WAITING);
    let common = Common { group: GroupId(1), store, stages: NodeStages::default(), served: Arc::default() };
    let rounds = Rounds { common, proof: Slow { begun, ends: Mutex::new(ends) } };
    let serving = tokio::spawn(rounds.serve(queue));
    let come = || {
        let (ticket, confirmed) = oneshot::channel();
        assert!(sender.try_send(Ticket::Go(ticket, SchemaVersion::default())).is_ok());
        confirmed
    };
    let mut next_begins = async || tokio::time::timeout(PATIENCE, begins.recv()).await.unwrap().unwrap();

    let mut first = come();
    next_begins().await;
    let mut early = come();
    let noticed = async {
        while sender.capacity() < MAX_WAITING {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("a round looks at its queue");
    let mut last = come();
    assert!(first.try_recv().is_err(), "nothing is proved yet");
    end.send(()).unwrap();

    next_begins().await;
    assert_eq!(first.try_recv(), Ok(Ok(())));
    assert!(early.try_recv().is_err() && last.try_recv().is_err(), "they came when the first round was under way");
    end.send(()).unwrap();
    end.send(()).unwrap();
    for waiting in [early, last] {
        assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap(), Ok(Ok(())));
    }
    drop(sender);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
}

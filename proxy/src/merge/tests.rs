//! What merged queries see of the machine that they run on.

use std::process::Command;

use flotilla_shared::value::Params;

use super::*;

/// Set in the process that is started with a time zone.
const IN_ZONE: &str = "FLOTILLA_TEST_IN_ZONE";

/// `localtime` is UTC in merged queries, whatever time zone the proxy's host has. In a process of its
/// own: the zone belongs to the process, and the C library reads it once.
#[test]
fn local_time_is_utc() {
    if std::env::var_os(IN_ZONE).is_none() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child
            .args(["--exact", "merge::tests::local_time_is_utc"])
            .env("TZ", "XXX5")
            .env(IN_ZONE, "1")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
        return;
    }
    let noon = Value::Text("2020-07-01 12:00:00".into());
    for sql in ["datetime('2020-07-01 12:00', 'localtime')", "datetime('2020-07-01 12:00', 'utc')"] {
        let bounds = Bounds { pulled_rows: 0, pulled_bytes: 0, result_rows: 1, result_bytes: 100 };
        let session = Session::open(&[], bounds, until(Duration::from_secs(60))).unwrap();
        let statement = Statement { sql: format!("SELECT {sql}"), params: Params::default() };
        assert_eq!(session.finish(&statement).unwrap(), vec![vec![noon.clone()]], "{sql}");
    }
}

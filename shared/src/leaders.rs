//! What the balancer of leaders says of itself, for `/status` and `/metrics`.

use serde::{Deserialize, Serialize};

use crate::ids::{GroupId, NodeId};

/// A hand-over that the balancer asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// The group.
    pub group: GroupId,
    /// Who led it.
    pub from: NodeId,
    /// Who was to lead it.
    pub to: NodeId,
    /// When, microseconds since 1970.
    pub at_us: i64,
    /// Why it did not come to be.
    pub error: Option<String>,
}

/// The balancer's state, as the node that leads `meta` tells it. It counts from when that node came to
/// lead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerStatus {
    /// Is it switched on?
    pub on: bool,
    /// Nothing is left to move, apart from waiting for things to settle.
    pub even: bool,
    /// Hand-overs that it made.
    pub handed_over: u64,
    /// Hand-overs that failed.
    pub failed: u64,
    /// The last one.
    pub last: Option<HandedOver>,
}

impl BalancerStatus {
    /// The JSON form.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "balance": self.on,
            "even": self.even,
            "handed_over": self.handed_over,
            "failed": self.failed,
            "last": self.last.as_ref().map(|last| serde_json::json!({
                "group": last.group, "from": last.from, "to": last.to, "at_us": last.at_us, "error": last.error,
            })),
        })
    }
}

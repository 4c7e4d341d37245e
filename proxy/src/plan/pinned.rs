//! Writes that a client sends to a shard by name, to repair what is there.
//!
//! Input: the plan of such a write, made as that of any other. Output: its part on that shard, with what that
//! has to own. So no row comes to a shard that does not own it. Changes of rows where they are may be asked
//! of one shard of several; an INSERT is for the shards of its rows. All else is refused by name.

use flotilla_shared::error::{Code, Error};
use flotilla_shared::ids::GroupId;

use super::{Part, Plan, Staged};
use crate::analyze::Verb;

/// What `shard` does of a write.
pub fn on_shard(plan: Plan, shard: GroupId, verb: Verb) -> Plan {
    match plan {
        Plan::One(part) if part.shard == shard => Plan::One(part),
        Plan::One(part) => refused(shard, &[part]),
        Plan::Some(parts) | Plan::All(parts) | Plan::Staged(Staged::Find(_, parts)) => {
            match parts.iter().find(|part| part.shard == shard && verb != Verb::Insert) {
                Some(part) => Plan::One(part.clone()),
                None => refused(shard, &parts),
            }
        }
        Plan::Staged(_) => refused_because(format!("the write reads rows first, and not those of {shard} alone")),
        Plan::Copies(_) => refused_because("the write is about a reference table, which is on every shard".to_owned()),
        plan => plan,
    }
}

fn refused(shard: GroupId, parts: &[Part]) -> Plan {
    let owners: Vec<String> = parts.iter().map(|part| part.shard.to_string()).collect();
    let error =
        Error::new(Code::Unroutable, format!("rows of the write belong to {}, not to {shard}", owners.join(", ")));
    Plan::Refused(error.hint(match parts {
        [part] => format!("leave out auto_route=false, or name shard={}", part.shard),
        _ => "leave out auto_route=false".to_owned(),
    }))
}

fn refused_because(why: String) -> Plan {
    Plan::Refused(Error::new(Code::Unroutable, why).hint("leave out auto_route=false"))
}

//! Lists that name a thing twice.

use super::super::{MetaCommand, MoveOptions, Registry, ReplicaChange as Change};
use super::*;
use crate::ids::{GroupId, RequestId};

fn wanted(shards: &[u32]) -> Registration {
    Registration {
        table: "new".into(),
        key: vec!["k".into()],
        spread: Spread::Hash,
        nullable: false,
        colocate_with: None,
        shards: shards.iter().copied().map(GroupId).collect(),
    }
}

/// Whatever list a job is asked for with: each thing is named once, or the job is not recorded.
#[test]
fn nothing_is_named_twice() {
    let node = NodeId;
    let value = |n: i64| vec![Value::Integer(n)];
    let text = |text: &str| vec![Value::Text(text.to_owned())];
    let replicas =
        |changes| JobKind::Replicas { goal: ReplicaGoal::Group { group: GroupId(1), changes }, patience_ms: 1 };
    let spread = |spread| JobKind::Register(Registration { spread, ..wanted(&[]) });
    let list = |values| spread(Spread::List { values, default: None });
    let split = |at| JobKind::Split { table: "t".into(), at, to: None, options: MoveOptions::default() };
    let refused = [
        JobKind::Register(wanted(&[2, 2])),
        JobKind::Register(wanted(&[2, 1, 3, 2])),
        JobKind::Register(Registration { key: vec!["a".into(), "b".into(), "A".into()], ..wanted(&[]) }),
        spread(Spread::Range { points: vec![value(1), value(2), value(1)] }),
        list(vec![(GroupId(1), vec![text("a"), text("a")])]),
        list(vec![(GroupId(1), vec![text("a")]), (GroupId(2), vec![text("b"), text("a")])]),
        list(vec![(GroupId(1), vec![text("a")]), (GroupId(1), vec![text("b")])]),
        JobKind::CreateShard { nodes: vec![node(1), node(2), node(1)], replicas: 3 },
        JobKind::Join { node: node(1), groups: vec![GroupId(1), GroupId(1)] },
        JobKind::Replicas { goal: ReplicaGoal::Repair { nodes: vec![node(1), node(1)] }, patience_ms: 1 },
        replicas(vec![Change::Add { node: node(1), votes: true }, Change::Add { node: node(1), votes: false }]),
        replicas(vec![Change::Remove { node: node(1) }, Change::Remove { node: node(1) }]),
        replicas(vec![Change::Promote { node: node(1) }, Change::Promote { node: node(1) }]),
        replicas(vec![Change::Replace { from: node(1), to: node(3) }, Change::Replace { from: node(2), to: node(3) }]),
    ];
    let mut registry = Registry::default();
    for kind in refused {
        let named = kind.clone();
        let error = registry.apply(1, MetaCommand::CreateJob { request: RequestId(9), kind }).unwrap_err();
        assert!(error.message.contains("twice"), "{named:?}: {error}");
    }
    assert!(registry.jobs.is_empty());
    for kind in [
        JobKind::Register(wanted(&[2, 3])),
        list(vec![(GroupId(1), vec![value(1)]), (GroupId(2), vec![text("1")])]),
        replicas(vec![Change::Add { node: node(1), votes: true }, Change::Remove { node: node(2) }]),
        split(vec![value(5), value(5)]),
    ] {
        let request = RequestId(u128::from(registry.version) + 1);
        registry.apply(1, MetaCommand::CreateJob { request, kind }).unwrap();
    }
}

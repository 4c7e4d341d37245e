//! Three nodes in this process: writes are acknowledged, read back, and survive a restart.

use flotilla_node::{options::NodeOptions, run::Node};
use flotilla_shared::{client::Cluster, ids::*, registry::*, wire::*};
use std::time::Duration;
use tokio::time::Instant;

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
    let seeds: Vec<String> = ports.iter().map(|p| format!("127.0.0.1:{}", p.1)).collect();
    let t0 = std::time::Instant::now();
    for round in 0..2 {
        let mut nodes = vec![];
        for (n, p) in ports.iter().enumerate() {
            let options = NodeOptions {
                id: NodeId(n as u64 + 1),
                data: dir.path().join(format!("n{n}")),
                http: format!("127.0.0.1:{}", p.0),
                raft: format!("127.0.0.1:{}", p.1),
                seed_nodes: seeds.clone(),
                groups: vec![META, GroupId(1), GroupId(2)],
                snapshot_threshold: 100,
                ..NodeOptions::default()
            };
            nodes.push(Node::start(options).await.unwrap());
        }
        for node in &mut nodes {
            node.settled().await.unwrap();
        }
        eprintln!("settled {:?}", t0.elapsed());
        let cluster = Cluster::new(seeds.clone());
        tokio::spawn(cluster.clone().follow());
        let dl = || Instant::now() + Duration::from_secs(10);
        let reg = cluster.wait_until(dl(), |r| r.cluster != 0).await.unwrap();
        eprintln!("registry {:?} {:?}", reg.version, t0.elapsed());
        if round == 0 {
            let MetaReply::Job(job) = cluster
                .meta(
                    MetaCommand::CreateJob(JobKind::Schema {
                        sql: "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)".into(),
                        table: None,
                    }),
                    dl(),
                )
                .await
                .unwrap()
            else {
                panic!()
            };
            let reg = cluster.wait_until(dl(), |r| r.jobs.get(&job).is_some_and(|j| j.ended())).await.unwrap();
            eprintln!("{:?} {:?}", reg.jobs[&job], t0.elapsed());
            let MetaReply::Job(job) = cluster
                .meta(
                    MetaCommand::CreateJob(JobKind::Register(Registration {
                        table: "t".into(),
                        key: vec!["id".into()],
                        colocate_with: None,
                        shards: vec![],
                    })),
                    dl(),
                )
                .await
                .unwrap()
            else {
                panic!()
            };
            let reg = cluster.wait_until(dl(), |r| r.jobs.get(&job).is_some_and(|j| j.ended())).await.unwrap();
            eprintln!("{:?} {:?}", reg.jobs[&job], t0.elapsed());
            for i in 0..1000u64 {
                let group = GroupId(1 + (i % 2) as u32);
                let w = Write {
                    id: RequestId::random(),
                    route: None,
                    statements: vec![Statement {
                        sql: "INSERT INTO t (v) VALUES (?)".into(),
                        params: flotilla_shared::value::Params::Positional(vec![flotilla_shared::value::Value::Text(
                            format!("v{i}"),
                        )]),
                    }],
                };
                let r = cluster.call(group, Request::Write { group, writes: vec![w] }, dl()).await.unwrap();
                let Response::Writes(r) = r else { panic!() };
                r[0].as_ref().unwrap();
            }
            eprintln!("1000 writes {:?}", t0.elapsed());
        }
        for g in [1, 2] {
            let r = cluster
                .call(
                    GroupId(g),
                    Request::Read {
                        group: GroupId(g),
                        read: Read {
                            route: None,
                            statement: Statement::bare("SELECT count(*), count(DISTINCT v) FROM t"),
                            level: Level::Linearizable,
                            freshness_ms: None,
                        },
                    },
                    dl(),
                )
                .await
                .unwrap();
            eprintln!("{r:?} {:?}", t0.elapsed());
        }
        for n in nodes {
            n.stop().await;
        }
        eprintln!("stopped {:?}", t0.elapsed());
    }
}

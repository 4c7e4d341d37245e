//! Texts made to hurt: nothing panics, nothing runs away.

use super::*;

/// No text makes the proxy panic: valid statements cut, doubled and scrambled, from a fixed seed.
#[test]
fn no_text_panics() {
    let bench = Bench::new();
    let seeds = [
        "SELECT * FROM users WHERE id IN (1,2,?) AND name = 'x''y' ORDER BY \"a\" -- c",
        "INSERT OR REPLACE INTO main.users AS u (id, name) VALUES (?1, x'00'), (-1.5e3, :a) ON CONFLICT DO NOTHING RETURNING *",
        "UPDATE users SET name = ?3 WHERE rowid IS NOT 5 AND (id) == [id] /* é */",
        "CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b DEFAULT (1+2) CHECK (b > 0))",
        "WITH RECURSIVE c(x) AS (VALUES (1) UNION SELECT x FROM c) DELETE FROM users WHERE id = 0x1F OR $a::b(c) = @d",
        "é🚢 ((((((((( ]]] ''' \"\"\" `` ?99999999999999999999 :: $ # @ 0x 1e 1_ ,",
    ];
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..6000 {
        let mut chars: Vec<char> = seeds[random(seeds.len())].chars().collect();
        for _ in 0..1 + random(6) {
            if chars.is_empty() {
                break;
            }
            let at = random(chars.len());
            match random(4) {
                0 => drop(chars.remove(at)),
                1 => chars.insert(at, ['\'', '"', '(', ')', '?', ',', ';', '-', '/', '*', '\0', 'é', '['][random(13)]),
                2 => chars.truncate(at.max(1)),
                _ => {
                    let other: Vec<char> = seeds[random(seeds.len())].chars().collect();
                    let from = random(other.len());
                    chars.splice(at..at, other[from..(from + 12).min(other.len())].iter().copied());
                }
            }
        }
        let sql: String = chars.into_iter().collect();
        let args = vec![int(round); random(4)];
        for partial in [false, true] {
            let plan = bench.plan_with(&sql, &Params::Positional(args.clone()), partial);
            let _shown = plan.to_string();
        }
    }
}

/// Views that multiply when they are expanded do not hold up the mirror.
#[test]
fn multiplying_views_are_stopped() {
    let mut ddl = "CREATE TABLE t (a); CREATE VIEW v0 AS SELECT a FROM t;".to_owned();
    for n in 1..40 {
        ddl += &format!("CREATE VIEW v{n} AS SELECT a FROM v{0} UNION ALL SELECT a FROM v{0};", n - 1);
    }
    let registry = registry(3, &ddl, &[]);
    let start = std::time::Instant::now();
    let bench = Bench { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry };
    let plan = bench.plan("SELECT * FROM v39", &[]);
    assert!(plan.starts_with("refused") && start.elapsed().as_secs() < 5, "{:?} {plan}", start.elapsed());
    assert_eq!(bench.plan("SELECT * FROM v3", &[]), "one shard1 [placement 0 at 1]");
}

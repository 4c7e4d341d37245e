//! SELECTs over several shards: what is pushed down, as text.

use super::*;

/// A plan without the repetition of its parts: what the first shard of each pull is asked, and what
/// finishes.
fn outline(plan: &Plan) -> String {
    match plan {
        Plan::Merge(merge) => {
            let mut lines: Vec<String> = Vec::new();
            for pull in &merge.pulls {
                let sql =
                    pull.parts[0].statement.as_ref().unwrap().sql.split_whitespace().collect::<Vec<_>>().join(" ");
                lines.push(format!("{}x {}", pull.parts.len(), sql));
            }
            let finish = merge.finish.sql.split_whitespace().collect::<Vec<_>>().join(" ");
            if !lines[0].contains(&finish) {
                lines.push(finish);
            }
            lines.join(" | ")
        }
        other => other.class().to_owned(),
    }
}

/// What the shards are asked, and what finishes: conditions, groups, order and limits go down where that
/// is right, and only the columns that are read are pulled where it is not.
#[test]
fn what_is_pushed_down() {
    let bench = Bench::new();
    for (sql, wanted) in [
        (
            "SELECT count(*) FROM users",
            "3x SELECT NULL, count (*) FROM users | SELECT ifnull(sum(_flotilla_p0), 0) FROM _flotilla_parts",
        ),
        (
            "SELECT name, count(*) n FROM users WHERE email > 'a' GROUP BY name HAVING n > 1 ORDER BY n DESC, name LIMIT 3 OFFSET 1",
            r#"3x SELECT NULL, name , count (*) FROM users WHERE email > 'a' GROUP BY name | SELECT _flotilla_g0 , ifnull(sum(_flotilla_p0), 0) AS "n" FROM _flotilla_parts GROUP BY _flotilla_g0 HAVING n > 1 ORDER BY 2 DESC , 1 LIMIT 3 OFFSET 1"#,
        ),
        (
            "SELECT avg(total), sum(total) + 1, max(total) FILTER (WHERE o_id > 2) AS m FROM orders",
            r#"3x SELECT NULL, flotilla_sum_state (total) , flotilla_sum_state (total) , max (total) FILTER (WHERE o_id > 2) FROM orders | SELECT flotilla_avg(_flotilla_p0) , flotilla_sum(_flotilla_p1) + 1 , max(_flotilla_p2) AS "m" FROM _flotilla_parts"#,
        ),
        (
            "SELECT lower(name), count(email) FROM users GROUP BY 1 ORDER BY 2",
            "3x SELECT NULL, lower(name) , count (email) FROM users GROUP BY lower(name) | SELECT _flotilla_g0 , ifnull(sum(_flotilla_p0), 0) FROM _flotilla_parts GROUP BY _flotilla_g0 ORDER BY 2",
        ),
        (
            "SELECT lower(name) || 'x', count(email) FROM users GROUP BY lower(name)",
            r#"3x SELECT "name", "email" FROM "users" | SELECT lower(name) || 'x', count(email) FROM users GROUP BY lower(name)"#,
        ),
        (
            "SELECT count(DISTINCT name) FROM users WHERE id > 3",
            "3x SELECT NULL, name FROM users WHERE id > 3 GROUP BY name | SELECT count(DISTINCT _flotilla_p0) FROM _flotilla_parts",
        ),
        (
            "SELECT name, email FROM users GROUP BY name",
            r#"3x SELECT "name", "email" FROM "users" | SELECT name, email FROM users GROUP BY name"#,
        ),
        (
            "SELECT DISTINCT name FROM users",
            "3x SELECT DISTINCT name FROM users | SELECT DISTINCT c0 FROM _flotilla_parts",
        ),
        (
            "SELECT DISTINCT name FROM accounts ORDER BY name LIMIT 2",
            "3x SELECT DISTINCT name FROM accounts ORDER BY name LIMIT 2 | SELECT DISTINCT c0 FROM _flotilla_parts ORDER BY c0 COLLATE NOCASE LIMIT 2",
        ),
        (
            "SELECT * FROM users ORDER BY name DESC NULLS LAST, id LIMIT 5",
            "3x SELECT * FROM users ORDER BY name DESC NULLS LAST , id LIMIT 5 | SELECT c0, c1, c2 FROM _flotilla_parts ORDER BY c1 COLLATE BINARY DESC NULLS LAST, c0 COLLATE BINARY LIMIT 5",
        ),
        (
            "SELECT * FROM users u ORDER BY lower(u.name) COLLATE NOCASE",
            r#"3x SELECT * , ( lower(u.name) ) FROM users u | SELECT c0, c1, c2 FROM _flotilla_parts ORDER BY o0 COLLATE "NOCASE""#,
        ),
        (
            "SELECT * FROM users LIMIT 1",
            "3x SELECT * FROM users LIMIT 1 | SELECT c0, c1, c2 FROM _flotilla_parts LIMIT 1",
        ),
        (
            "SELECT name AS n FROM users ORDER BY n",
            "3x SELECT name AS n FROM users | SELECT c0 FROM _flotilla_parts ORDER BY c0 COLLATE BINARY",
        ),
        (
            "SELECT row_number() OVER () FROM users",
            r#"3x SELECT NULL FROM "users" | SELECT row_number() OVER () FROM users"#,
        ),
        (
            "SELECT * FROM users UNION SELECT * FROM users WHERE id = 3",
            r#"3x SELECT "id", "name", "email" FROM "users" | SELECT * FROM users UNION SELECT * FROM users WHERE id = 3"#,
        ),
        ("SELECT * FROM orders JOIN items USING (o_id)", "all"),
        ("SELECT * FROM orders o LEFT JOIN items i ON i.o_id = o.o_id AND i.price > 3 WHERE o.total > 1", "all"),
        (
            "SELECT o.o_id, sum(price) FROM orders o, items i WHERE o.o_id = i.o_id AND total > 3 GROUP BY o.o_id ORDER BY 2 DESC LIMIT 10",
            "3x SELECT NULL, o.o_id , flotilla_sum_state (price) FROM orders o, items i WHERE o.o_id = i.o_id AND total > 3 GROUP BY o.o_id | SELECT _flotilla_g0 , flotilla_sum(_flotilla_p0) FROM _flotilla_parts GROUP BY _flotilla_g0 ORDER BY 2 DESC LIMIT 10",
        ),
        (
            "SELECT * FROM orders o LEFT JOIN items i ON i.line = o.o_id WHERE o.total > 1 AND i.price > 3",
            r#"3x SELECT "o_id", "line", "price" FROM "items" | 3x SELECT "o_id", "total" FROM "orders" WHERE (( "total" > 1 )) | SELECT * FROM orders o LEFT JOIN items i ON i.line = o.o_id WHERE o.total > 1 AND i.price > 3"#,
        ),
        (
            "SELECT * FROM users JOIN notes ON notes.id = users.id WHERE users.name = 'x' AND body BETWEEN 'a' AND 'b'",
            r#"1x SELECT "id", "body" FROM "notes" WHERE (( body BETWEEN 'a' AND 'b' )) | 3x SELECT "id", "name", "email" FROM "users" WHERE (( "name" = 'x' )) | SELECT * FROM users JOIN notes ON notes.id = users.id WHERE users.name = 'x' AND body BETWEEN 'a' AND 'b'"#,
        ),
        (
            "SELECT * FROM named WHERE id = 1",
            r#"3x SELECT "id", "name" FROM "users" | SELECT * FROM named WHERE id = 1"#,
        ),
        (
            "WITH u AS (SELECT * FROM users WHERE id = 3) SELECT * FROM u",
            r#"3x SELECT "id", "name", "email" FROM "users" WHERE (( id = 3 )) | WITH u AS (SELECT * FROM users WHERE id = 3) SELECT * FROM u"#,
        ),
        (
            "SELECT * FROM users WHERE id IN (1,2,3,4,5,6,7,8) ORDER BY id",
            "3x SELECT * FROM users WHERE id IN (1,2,3,4,5,6,7,8) | SELECT c0, c1, c2 FROM _flotilla_parts ORDER BY c0 COLLATE BINARY",
        ),
        (
            "SELECT * FROM users WHERE name IN (SELECT body FROM notes WHERE notes.id > users.id)",
            r#"1x SELECT "id", "body" FROM "notes" | 3x SELECT "id", "name", "email" FROM "users" | SELECT * FROM users WHERE name IN (SELECT body FROM notes WHERE notes.id > users.id)"#,
        ),
        (
            "SELECT max(name) FROM accounts",
            "3x SELECT NULL, max (name) FROM accounts | SELECT max(_flotilla_p0) FROM _flotilla_parts",
        ),
        (
            "SELECT kind, max(balance), name FROM accounts GROUP BY kind",
            r#"3x SELECT "name", "kind", "balance" FROM "accounts" | SELECT kind, max(balance), name FROM accounts GROUP BY kind"#,
        ),
        (
            "SELECT g, n FROM events ORDER BY g LIMIT ?2 OFFSET ?1",
            "3x SELECT g, n FROM events ORDER BY g LIMIT (SELECT CASE WHEN l < 0 THEN -1 WHEN o <= 0 THEN l WHEN l > 9223372036854775807 - o THEN -1 ELSE l + o END FROM (SELECT ifnull(CAST(CAST(( ?1 ) AS NUMERIC) AS INTEGER), -1) AS l, ifnull(CAST(CAST(( ?2 ) AS NUMERIC) AS INTEGER), 0) AS o)) | SELECT c0, c1 FROM _flotilla_parts ORDER BY c0 COLLATE BINARY LIMIT ?1 OFFSET ?2",
        ),
        (
            "SELECT count(*) FROM orders WHERE total > 3 AND EXISTS (SELECT * FROM items WHERE items.o_id = orders.o_id AND price > 3)",
            "3x SELECT NULL, count (*) FROM orders WHERE total > 3 AND EXISTS (SELECT * FROM items WHERE items.o_id = orders.o_id AND price > 3) | SELECT ifnull(sum(_flotilla_p0), 0) FROM _flotilla_parts",
        ),
        ("SELECT o_id, (SELECT sum(price) FROM items i WHERE i.o_id = o.o_id) FROM orders o", "all"),
        (
            "SELECT count(*) FROM orders WHERE o_id IN (SELECT o_id FROM items WHERE price > 3)",
            "3x SELECT \"o_id\", \"price\" FROM \"items\" WHERE (( price > 3 )) | 3x SELECT \"o_id\" FROM \"orders\" | SELECT count(*) FROM orders WHERE o_id IN (SELECT o_id FROM items WHERE price > 3)",
        ),
        (
            "SELECT count(*) FROM orders WHERE EXISTS (SELECT * FROM items WHERE o_id = o_id)",
            "3x SELECT \"o_id\", \"line\", \"price\" FROM \"items\" WHERE (( o_id = o_id )) | 3x SELECT NULL FROM \"orders\" | SELECT count(*) FROM orders WHERE EXISTS (SELECT * FROM items WHERE o_id = o_id)",
        ),
        (
            "SELECT * FROM orders NOT INDEXED WHERE o_id NOT IN (SELECT id FROM notes)",
            "1x SELECT \"id\" FROM \"notes\" | 3x SELECT \"o_id\", \"total\" FROM \"orders\" | SELECT * FROM orders WHERE o_id NOT IN (SELECT id FROM notes)",
        ),
        (
            "SELECT u.email FROM users u JOIN notes USING (id)",
            "1x SELECT \"id\" FROM \"notes\" | 3x SELECT \"id\", \"email\" FROM \"users\" | SELECT u.email FROM users u JOIN notes USING (id)",
        ),
        (
            "SELECT count(*) FROM users u NATURAL JOIN tags",
            "1x SELECT \"id\", \"note\", \"tag\" FROM \"tags\" | 3x SELECT \"id\", \"name\", \"email\" FROM \"users\" | SELECT count(*) FROM users u NATURAL JOIN tags",
        ),
        (
            "SELECT y FROM (SELECT CASE WHEN id = (SELECT 1 FROM pair) THEN 1 END x, id y FROM users)",
            "3x SELECT NULL FROM \"pair\" | 3x SELECT \"id\" FROM \"users\" | SELECT y FROM (SELECT CASE WHEN id = (SELECT 1 FROM pair) THEN 1 END x, id y FROM users)",
        ),
        (
            "SELECT * FROM users NATURAL JOIN kv",
            "3x SELECT \"key\", \"value\" FROM \"kv\" | 3x SELECT \"id\", \"name\", \"email\" FROM \"users\" | SELECT * FROM users NATURAL JOIN kv",
        ),
        (
            "SELECT 1 FROM users a, accounts b WHERE a.name < date('1995-09-01', '+1 month') AND b.kind > date('now') AND b.balance > date() AND a.email > randomblob(3)",
            "3x SELECT \"kind\", \"balance\" FROM \"accounts\" | 3x SELECT \"name\", \"email\" FROM \"users\" WHERE (( \"name\" < date('1995-09-01', '+1 month') )) | SELECT 1 FROM users a, accounts b WHERE a.name < date('1995-09-01', '+1 month') AND b.kind > date('now') AND b.balance > date() AND a.email > randomblob(3)",
        ),
    ] {
        let count = if sql.contains("?2") { 2 } else { 0 };
        let plan = bench.plan_with(sql, &Params::Positional(vec![Value::Integer(1); count]), false);
        assert_eq!(outline(&plan), wanted, "{sql}");
    }
}

/// A name in a subquery is that of the closest SELECT that knows it, though one further out has it as
/// its key: then the rows are not beside each other.
#[test]
fn names_are_those_of_the_closest_select() {
    let ddl = "CREATE TABLE a (id INTEGER PRIMARY KEY, v); CREATE TABLE b (bk INTEGER PRIMARY KEY, id INT);
               CREATE TABLE c (ck INTEGER PRIMARY KEY, v);";
    let registry = registry(3, ddl, &[("a", &["id"], 1), ("b", &["bk"], 1), ("c", &["ck"], 1)]);
    let bench = Bench { mirror: Mirror::build(Arc::clone(&registry)).unwrap(), registry };
    for (key, wanted) in [("a.id", "all"), ("bk", "all"), ("id", "pulled"), ("b.id", "pulled"), ("c.v", "pulled")] {
        let sql = format!(
            "SELECT v FROM a WHERE EXISTS (SELECT 1 FROM b WHERE bk = a.id AND EXISTS (SELECT 1 FROM c WHERE ck = {key}))"
        );
        let plan = outline(&bench.plan_with(&sql, &Params::default(), false));
        assert_eq!(if plan == "all" { "all" } else { "pulled" }, wanted, "{sql}\n{plan}");
    }
}

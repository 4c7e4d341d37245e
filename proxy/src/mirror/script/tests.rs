//! Where transactions run, and what of them.

use flotilla_shared::registry::Spread;

use super::*;
use crate::testing;

fn tried(registry: &Registry, sql: &str) -> Result<Trial, Error> {
    let statements: Vec<Statement> =
        sql.split(";;").map(str::trim).filter(|one| !one.is_empty()).map(Statement::bare).collect();
    try_script(registry, &statements, None)
}

fn registry() -> Arc<Registry> {
    let ddl = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
               CREATE TABLE items (uid INTEGER REFERENCES users (id), n, PRIMARY KEY (uid, n));
               CREATE TABLE home (a)";
    testing::registry(3, ddl, &[("users", &["id"], 1), ("items", &["uid"], 1)])
}

/// sqlite3's dump, in an order in which children come first and two tables refer to each other.
#[test]
fn dumps() {
    let trial = tried(
        &registry(),
        "PRAGMA foreign_keys=OFF;; CREATE TABLE c (id INTEGER PRIMARY KEY, p REFERENCES p (id));;
         INSERT INTO c VALUES (1, 10);; CREATE TABLE IF NOT EXISTS \"p\" (id INTEGER PRIMARY KEY AUTOINCREMENT, c REFERENCES c);;
         INSERT INTO p VALUES (10, unistr('a\\u000ab'));; DELETE FROM sqlite_sequence;; INSERT INTO sqlite_sequence VALUES ('p', 42);;
         CREATE TRIGGER t AFTER INSERT ON p BEGIN INSERT INTO c VALUES (new.id, 'x; y'); END;;
         CREATE INDEX i ON c (p) WHERE p IS NOT NULL;; CREATE VIEW v AS SELECT * FROM p JOIN c ON c.p = p.id;; SELECT * FROM v",
    )
    .unwrap();
    assert_eq!((trial.placement, trial.foreign_keys), (HOME, ForeignKeys::Checked));
    assert_eq!((trial.statements.len(), trial.roles.len()), (10, 11));
    assert_eq!((trial.roles[0], trial.roles[1], trial.roles[2]), (Role::Setting, Role::Schema, Role::Write));
    assert_eq!(trial.roles[10], Role::Rows);
}

/// What foreign keys do: as asked, by a PRAGMA, and where a table is dropped.
#[test]
fn foreign_keys() {
    let registry = registry();
    for (sql, expected) in [
        ("CREATE TABLE t (a);; INSERT INTO t VALUES (1)", ForeignKeys::Enforced),
        ("CREATE TABLE t (a);; DROP TABLE t", ForeignKeys::Checked),
        ("PRAGMA main.defer_foreign_keys = 1;; CREATE TABLE t (a)", ForeignKeys::Checked),
        ("PRAGMA foreign_keys(on);; PRAGMA defer_foreign_keys=OFF;; CREATE TABLE t (a)", ForeignKeys::Enforced),
    ] {
        assert_eq!(tried(&registry, sql).unwrap().foreign_keys, expected, "{sql}");
    }
    let asked = try_script(&registry, &[Statement::bare("DROP TABLE home")], Some(ForeignKeys::Unchecked)).unwrap();
    assert_eq!(asked.foreign_keys, ForeignKeys::Unchecked);
    for sql in ["PRAGMA foreign_keys = maybe", "PRAGMA journal_mode=OFF", "PRAGMA table_info(home)"] {
        assert_eq!(tried(&registry, sql).unwrap_err().code, Code::Forbidden, "{sql}");
    }
}

/// A PRAGMA without a value reads what is in force there.
#[test]
fn settings_are_read() {
    let reads = |sql: &str, asked| {
        let statements: Vec<Statement> = sql.split(";;").map(str::trim).map(Statement::bare).collect();
        let trial = try_script(&registry(), &statements, asked).unwrap();
        let read = |role: &Role| match role {
            Role::Read(setting, on) => Some((setting.name(), *on)),
            _ => None,
        };
        (trial.roles.iter().filter_map(read).collect::<Vec<_>>(), trial.foreign_keys, trial.statements.len())
    };
    let (keys, defer) = ("foreign_keys", "defer_foreign_keys");
    assert_eq!(
        reads("PRAGMA foreign_keys;; PRAGMA main.defer_foreign_keys;; CREATE TABLE t (a)", None),
        (vec![(keys, true), (defer, false)], ForeignKeys::Enforced, 1)
    );
    assert_eq!(
        reads(
            "PRAGMA Foreign_Keys;; PRAGMA foreign_keys(0);; PRAGMA defer_foreign_keys = 'ON';; PRAGMA foreign_keys;;
             PRAGMA defer_foreign_keys;; CREATE TABLE t (a);; PRAGMA foreign_keys = yes;; PRAGMA \"foreign_keys\"",
            None
        ),
        (vec![(keys, true), (keys, false), (defer, true), (keys, true)], ForeignKeys::Checked, 1)
    );
    assert_eq!(
        reads("PRAGMA foreign_keys;; CREATE TABLE t (a)", Some(ForeignKeys::Checked)),
        (vec![(keys, false)], ForeignKeys::Checked, 1)
    );
}

/// A child of a sharded parent is made anew while foreign keys do not act; it is checked at the end that each leads
/// to a row of its own shard.
#[test]
fn children_of_sharded_parents() {
    let ddl = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
               CREATE TABLE kinds (k TEXT PRIMARY KEY);
               CREATE TABLE items (uid INTEGER REFERENCES users (id) ON DELETE CASCADE, n, k TEXT REFERENCES kinds (k),
                                   PRIMARY KEY (uid, n));
               CREATE TABLE marks (uid INTEGER, n, FOREIGN KEY (uid, n) REFERENCES items (uid, n));";
    let keys: &[(&str, &[&str], u32)] = &[("users", &["id"], 1), ("items", &["uid"], 1), ("marks", &["uid"], 1)];
    let mut registry = testing::registry(3, ddl, keys);
    testing::place(&mut registry, "kinds", &[], 2, &Spread::Reference);
    let users = registry.tables["users"].placement;
    let rebuild = |definition: &str, more: &str| {
        format!(
            "CREATE TABLE new_items ({definition});; {more} INSERT INTO new_items (uid, n, k) SELECT uid, n, k FROM items;;
             DROP TABLE items;; ALTER TABLE new_items RENAME TO items"
        )
    };
    let same = "uid INTEGER REFERENCES users (id) ON DELETE SET NULL, n, k TEXT REFERENCES kinds, PRIMARY KEY (uid, n)";
    let trigger = "CREATE TRIGGER t AFTER INSERT ON new_items BEGIN DELETE FROM users WHERE id = new.uid; END;;";
    for off in ["", "PRAGMA foreign_keys=OFF;;", "PRAGMA defer_foreign_keys=ON;;"] {
        let trial = tried(&registry, &format!("{off} {}", rebuild(same, ""))).unwrap();
        assert_eq!((trial.placement, trial.foreign_keys), (users, ForeignKeys::Checked));
    }
    let home = "uid INTEGER, n REFERENCES users (id), k TEXT, PRIMARY KEY (uid, n)";
    for (definition, more, code, words) in [
        (same, trigger, Code::Unroutable, "trigger t of table new_items"),
        (home, "", Code::UnsafeRegistration, "foreign key of items to users"),
        ("uid INTEGER, n, k TEXT UNIQUE", "", Code::UnsafeRegistration, "(k) unique in new_items"),
    ] {
        let error = tried(&registry, &rebuild(definition, more)).unwrap_err();
        assert!(error.code == code && error.message.contains(words), "{definition}: {error}");
    }
}

/// A single statement that takes a sharded table or its name away is none of a script's.
#[test]
fn single_statements() {
    let registry = registry();
    for sql in [
        "PRAGMA foreign_keys=off;; DROP TABLE items",
        "DROP TABLE IF EXISTS main.\"Items\"",
        "DROP TABLE nowhere",
        "ALTER TABLE users RENAME TO others;; PRAGMA foreign_key_check",
    ] {
        let trial = tried(&registry, sql).unwrap();
        assert!(trial.statements.is_empty() && trial.roles.contains(&Role::Schema), "{sql}");
    }
    for sql in ["DROP TABLE home", "ALTER TABLE home RENAME TO house", "ALTER TABLE users RENAME name TO n"] {
        assert_eq!(tried(&registry, sql).unwrap().statements.len(), 1, "{sql}");
    }
}

/// Tables of a sharded placement, with those colocated: made anew in several ways, on all its shards.
#[test]
fn sharded_tables() {
    let registry = registry();
    let users = registry.tables["users"].placement;
    for sql in [
        "CREATE TABLE n (id INTEGER PRIMARY KEY, name);; INSERT INTO n SELECT * FROM users;; DROP TABLE users;;
         ALTER TABLE n RENAME TO users;; CREATE INDEX i ON users (name)",
        "ALTER TABLE items RENAME TO old;; CREATE TABLE items (n, uid INTEGER, PRIMARY KEY (uid, n));;
         INSERT INTO items (uid, n) SELECT uid, upper(n) FROM old WHERE n > 'a';; DROP TABLE old",
        "CREATE TEMP TABLE n (m, uid INTEGER);; INSERT INTO n SELECT n, uid FROM items;; DROP TABLE items;;
         CREATE TABLE items (uid INTEGER, n, m, PRIMARY KEY (uid, n));;
         INSERT INTO items (n, uid) SELECT m, uid FROM n;; DROP TABLE n",
        "ALTER TABLE users ADD COLUMN more;; UPDATE users SET more = name WHERE id > 3;; DELETE FROM users WHERE more IS NULL",
    ] {
        let trial = tried(&registry, sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(trial.placement, users, "{sql}");
        assert!(!trial.statements.iter().any(|statement| statement.sql.contains("TEMP")), "{sql}");
    }
}

/// What would lose rows, keys or constraints, or read one shard's rows for all.
#[test]
fn refusals() {
    let registry = registry();
    let create = "CREATE TABLE n (id INTEGER PRIMARY KEY, name);;";
    let end = ";; DROP TABLE users;; ALTER TABLE n RENAME TO users";
    for insert in [
        "INSERT INTO n SELECT id + 0, name FROM users",
        "INSERT INTO n SELECT DISTINCT id, name FROM users",
        "INSERT INTO n SELECT u.id, i.n FROM users u, items i",
        "INSERT INTO n SELECT id, name FROM users UNION ALL SELECT 1, 2",
        "INSERT INTO n (name) SELECT name FROM users",
        "INSERT INTO n SELECT id, row_number() OVER () FROM users",
        "INSERT INTO n SELECT id, name FROM users RETURNING id",
        "INSERT INTO n SELECT id, (SELECT max(n) FROM items) FROM users",
        "INSERT INTO n SELECT id, name FROM users;; UPDATE n SET name = (SELECT count(*) FROM users)",
        "INSERT INTO n SELECT id, name FROM users;; UPDATE n SET id = id + 1",
        "SELECT count(*) FROM users",
    ] {
        let error = tried(&registry, &format!("{create}{insert}{end}")).unwrap_err();
        assert!(matches!(error.code, Code::Unroutable | Code::ShardKeyUpdate | Code::Conflict), "{insert}: {error}");
    }
    for (sql, code) in [
        ("DROP TABLE users", Code::Unroutable),
        ("ALTER TABLE users RENAME TO others;; CREATE TABLE z (a)", Code::Unroutable),
        (
            "CREATE TABLE z (a);; INSERT INTO z SELECT a FROM home;; INSERT INTO z SELECT id FROM users",
            Code::Unroutable,
        ),
        ("CREATE TABLE z (a);; DELETE FROM users WHERE id IN (SELECT a FROM home)", Code::Unroutable),
        ("INSERT INTO home SELECT id FROM users;; CREATE TABLE z (a)", Code::Unroutable),
        ("CREATE TABLE z (a);; EXPLAIN SELECT 1", Code::Unroutable),
        ("CREATE TABLE _flotilla_z (a)", Code::Forbidden),
        ("CREATE TEMP TABLE z (a);; CREATE TABLE y (a)", Code::Unroutable),
        ("CREATE TABLE z (a);; SAVEPOINT s", Code::Forbidden),
        ("CREATE TABLE z (a);; ALTER TABLE z RENAME TO _flotilla_z", Code::Forbidden),
        ("CREATE UNIQUE INDEX i ON users (name)", Code::UnsafeRegistration),
        ("CREATE TABLE z (a);; INSERT INTO z VALUES (?)", Code::WrongArgCount),
        ("ALTER TABLE users ADD COLUMN h REFERENCES home (a)", Code::UnsafeRegistration),
        // What refers to the table is renamed with it, and would refer to nothing.
        (
            "ALTER TABLE users RENAME TO old;; CREATE TABLE users (id INTEGER PRIMARY KEY);;
             INSERT INTO users SELECT id FROM old;; DROP TABLE old",
            Code::UnsafeRegistration,
        ),
        ("CREATE TRIGGER t AFTER INSERT ON users BEGIN DELETE FROM items; END", Code::UnsafeRegistration),
    ] {
        let error = tried(&registry, sql).unwrap_err();
        assert_eq!(error.code, code, "{sql}: {error}");
    }
    let error = tried(&registry, "CREATE TABLE z (a);; INSERT INTO y VALUES (1)").unwrap_err();
    assert_eq!(error.message, "statement 2: no such table: y");
}

/// Frameworks note a migration in a table of their own, in the same transaction: that runs on the home shard.
#[test]
fn home_tables_beside_sharded_ones() {
    let trial = tried(
        &registry(),
        "CREATE TABLE version (n);; INSERT INTO version VALUES (1);; CREATE TABLE n (id INTEGER PRIMARY KEY, name);;
         INSERT INTO n SELECT id, name FROM users;; DROP TABLE users;; ALTER TABLE n RENAME TO users;;
         UPDATE version SET n = 2;; INSERT INTO home SELECT n FROM version;; CREATE INDEX i ON users (name);; SELECT 1",
    )
    .unwrap();
    assert_eq!(trial.placement, registry().tables["users"].placement);
    assert_eq!(trial.home, [true, true, false, false, false, false, true, true, false, true]);
}

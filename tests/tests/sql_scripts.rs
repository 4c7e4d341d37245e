//! Scripts of `flotilla sql`: they mean what they mean to `sqlite3`, on unsharded and on sharded tables.

use flotilla_tests::harness::Dev;

/// The tables of an application, as Drizzle makes them.
const BASE: &str = "\
CREATE TABLE `account` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL,
	`mode` text DEFAULT 'preview' NOT NULL
);
--> statement-breakpoint
CREATE TABLE `note` (
	`id` integer NOT NULL,
	`account_id` integer NOT NULL,
	`body` text NOT NULL,
	PRIMARY KEY (`account_id`, `id`),
	FOREIGN KEY (`account_id`) REFERENCES `account`(`id`) ON UPDATE no action ON DELETE cascade
);
";

const ROWS: &str = "\
INSERT INTO account(id,name) VALUES (1,'ann');
INSERT INTO account(id,name) VALUES (2,'bob');
INSERT INTO note(id,account_id,body) VALUES (1,1,'a1');
INSERT INTO note(id,account_id,body) VALUES (2,1,'a2');
INSERT INTO note(id,account_id,body) VALUES (3,2,'b1');
";

/// A table is made anew under another name, then renamed.
const REBUILD: &str = "\
PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_account` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL,
	`mode` text DEFAULT 'markup' NOT NULL
);
--> statement-breakpoint
INSERT INTO `__new_account`(\"id\", \"name\", \"mode\") SELECT \"id\", \"name\", \"mode\" FROM `account`;--> statement-breakpoint
DROP TABLE `account`;--> statement-breakpoint
ALTER TABLE `__new_account` RENAME TO `account`;--> statement-breakpoint
PRAGMA foreign_keys=ON;
";

/// The same with a NOT NULL that rows do not meet: the copy fails.
const BAD_REBUILD: &str = "\
CREATE TABLE bad (id INTEGER PRIMARY KEY, name TEXT NOT NULL, mode TEXT CHECK (mode <> 'preview'));
INSERT INTO bad SELECT id, name, mode FROM account;
DROP TABLE account;
ALTER TABLE bad RENAME TO account;
";

/// sqlite3's dump, children before their parents.
const DUMP: &str = "\
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE candidates(id INTEGER PRIMARY KEY, election_id INTEGER NOT NULL REFERENCES elections(id), boss INTEGER REFERENCES candidates(id));
INSERT INTO candidates VALUES(1,10,3);
INSERT INTO candidates VALUES(2,10,1);
INSERT INTO candidates VALUES(3,11,NULL);
CREATE TABLE elections(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
INSERT INTO elections VALUES(10,'city; hall');
INSERT INTO elections VALUES(11,unistr('line\\u000abreak'));
CREATE TABLE log(x, at TEXT);
INSERT INTO log VALUES(9e+999,X'00ff');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('elections',42);
CREATE TRIGGER trg AFTER INSERT ON log WHEN new.x=1 BEGIN
  INSERT INTO log VALUES(CASE WHEN new.x=1 THEN 2 END, 'trigger; end;');
END;
CREATE INDEX log_x ON log(x) WHERE at IS NOT NULL;
CREATE VIEW vv AS SELECT e.name, count(*) n FROM elections e JOIN candidates c ON c.election_id=e.id GROUP BY e.id;
COMMIT;
";

fn rows(dev: &Dev, query: &str) -> String {
    dev.succeeds(&["sql", "--json", "-c", query], None).replace('\n', "")
}

/// A script that must fail; what it says.
fn fails(dev: &Dev, script: &str) -> String {
    let output = dev.command(&["sql"], Some(script));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

fn counts(dev: &Dev) -> String {
    rows(dev, "SELECT (SELECT count(*) FROM account) AS a, (SELECT count(*) FROM note) AS n").trim().to_owned()
}

/// Rebuilds keep the children, and fail whole; a rollback takes back what it should; a dump loads whole. All of it
/// on one cluster, for a cluster takes longer to start than all this takes.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_mean_what_they_mean_to_sqlite() {
    let dev = Dev::start(3, 2).await;
    dev.succeeds(&["sql"], Some(BASE));
    dev.succeeds(&["sql"], Some(ROWS));
    rebuilds(&dev);
    dev.succeeds(
        &["sql"],
        Some("BEGIN; DELETE FROM note; ROLLBACK; BEGIN; UPDATE note SET body = 'x' WHERE id = 3; COMMIT;"),
    );
    assert_eq!(rows(&dev, "SELECT body FROM note WHERE id = 3"), r#"[{"body":"x"}]"#);
    assert!(fails(&dev, "INSERT INTO account(name) VALUES (NULL);\nDELETE FROM note;\n").contains("line 1"));
    assert!(fails(&dev, "BEGIN;\nDELETE FROM note;\n").contains("no COMMIT"));
    assert!(counts(&dev).contains("\"n\":3"), "{}", counts(&dev));

    assert!(fails(&dev, &DUMP.replace("(3,11,NULL)", "(3,12,NULL)")).contains("row 3 of candidates"));
    dev.succeeds(&["sql"], Some(DUMP));
    assert_eq!(rows(&dev, "SELECT sum(n) AS n FROM vv"), r#"[{"n":3}]"#);
    dev.succeeds(&["sql", "-c", "INSERT INTO elections(name) VALUES ('next')"], None);
    assert_eq!(rows(&dev, "SELECT max(id) AS id FROM elections"), r#"[{"id":43}]"#);
    assert_eq!(rows(&dev, "PRAGMA foreign_key_check"), "[]");

    large_dump(&dev);

    // The same on sharded tables: made anew, empty, sharded, and filled.
    dev.succeeds(&["sql"], Some("DROP TABLE note; DROP TABLE account;"));
    dev.succeeds(&["sql"], Some(BASE.split_once("--> statement").unwrap().0));
    dev.succeeds(&["admin", "register", "account", "--key", "id"], None);
    dev.succeeds(&["sql"], Some(&BASE[BASE.find("CREATE TABLE `note`").unwrap()..]));
    dev.succeeds(&["admin", "register", "note", "--key", "account_id", "--colocate-with", "account"], None);
    dev.succeeds(&["sql"], Some(ROWS));
    rebuilds(&dev);
    dev.succeeds(&["sql", "-c", "INSERT INTO account(id, name) VALUES (7, 'new')"], None);
    assert_eq!(rows(&dev, "SELECT mode FROM account WHERE id = 7"), r#"[{"mode":"markup"}]"#);
}

fn rebuilds(dev: &Dev) {
    let before = counts(dev);
    let said = fails(dev, &format!("PRAGMA foreign_keys=OFF;\n{BAD_REBUILD}PRAGMA foreign_keys=ON;\n"));
    assert!(said.contains("CHECK constraint failed"), "{said}");
    fails(dev, &format!("BEGIN;\n{BAD_REBUILD}COMMIT;\n"));
    assert_eq!(counts(dev), before, "nothing of it happened");
    dev.succeeds(&["sql"], Some(REBUILD));
    assert_eq!(counts(dev), before, "the children are there");
    let in_transaction =
        REBUILD.replace("PRAGMA foreign_keys=OFF;", "BEGIN;").replace("PRAGMA foreign_keys=ON;", "COMMIT;");
    dev.succeeds(&["sql"], Some(&in_transaction));
    assert_eq!(counts(dev), before, "the children are there");
    assert_eq!(rows(dev, "SELECT name FROM account ORDER BY id"), r#"[{"name":"ann"},{"name":"bob"}]"#);
    fails(dev, "INSERT INTO note VALUES (9, 9, 'orphan');");
    // Alembic notes its version in the same transaction.
    let versioned =
        in_transaction.replace("COMMIT;", "CREATE TABLE version (n); INSERT INTO version VALUES (7); COMMIT;");
    dev.succeeds(&["sql"], Some(&versioned));
    assert_eq!(rows(dev, "SELECT n, (SELECT count(*) FROM note) AS c FROM version"), r#"[{"n":7,"c":3}]"#);
    dev.succeeds(&["sql", "-c", "DROP TABLE version"], None);
}

/// A dump that is larger than one request goes in parts: whole, or not at all.
fn large_dump(dev: &Dev) {
    let child = |n: u32, parent: u32| format!("INSERT INTO child VALUES({n},{parent});\n");
    let children: String = (1..=5000).map(|n| child(n, n % 100 + 1)).collect();
    let parents: String = (1..=100).map(|n| format!("INSERT INTO parent VALUES({n});\n")).collect();
    let dump = format!(
        "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n\
         CREATE TABLE child(id INTEGER PRIMARY KEY, parent REFERENCES parent(id));\n{children}\
         CREATE TABLE IF NOT EXISTS \"parent\"(id INTEGER PRIMARY KEY);\n{parents}CREATE INDEX by_parent ON child(parent);\n\
         CREATE VIEW both AS SELECT * FROM child JOIN parent ON parent.id = child.parent;\nCOMMIT;\n"
    );
    let said = fails(dev, &dump.replace(&child(4000, 1), &child(4000, 101)));
    assert!(said.contains("1 rows of child refer to no row") && said.contains("undone"), "{said}");
    let said = fails(dev, &dump.replace(&child(4000, 1), "INSERT INTO nowhere VALUES(1);\n"));
    assert!(said.contains("nowhere") && said.contains("undone"), "{said}");
    let left = "SELECT count(*) AS n FROM sqlite_schema WHERE name IN ('child', 'parent', 'both')";
    assert_eq!(rows(dev, left), r#"[{"n":0}]"#);
    dev.succeeds(&["sql"], Some(&dump));
    assert_eq!(rows(dev, "SELECT count(*) AS n FROM both"), r#"[{"n":5000}]"#);
}

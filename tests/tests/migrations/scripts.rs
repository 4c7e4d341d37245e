//! Short scripts about what BEGIN, ROLLBACK, SAVEPOINT, a PRAGMA and an error mean in a script.

/// How a script ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Every statement works.
    Well,
    /// A statement fails, as in SQLite.
    Failed,
    /// SQLite lets it pass; what it leaves is the same.
    Refused,
}

/// A name, a script, and how it ends. All of it means what it means to `sqlite3 -bail`.
pub const SCRIPTS: &[(&str, &str, Ends)] = &[
    (
        "ROLLBACK undoes",
        "CREATE TABLE s_a (id INTEGER PRIMARY KEY, n INT);
        INSERT INTO s_a VALUES (1, 1), (2, 2);
        BEGIN TRANSACTION; UPDATE s_a SET n = 10; DELETE FROM s_a WHERE id = 2; ROLLBACK;
        begin; INSERT INTO s_a VALUES (3, 3); commit;
        BEGIN IMMEDIATE; INSERT INTO s_a VALUES (4, 4); END TRANSACTION;
        BEGIN EXCLUSIVE TRANSACTION; INSERT INTO s_a VALUES (5, 5); ROLLBACK TRANSACTION;",
        Ends::Well,
    ),
    (
        "SAVEPOINT, ROLLBACK TO and RELEASE",
        "CREATE TABLE s_b (id INTEGER PRIMARY KEY);
        BEGIN; INSERT INTO s_b VALUES (1); SAVEPOINT x; INSERT INTO s_b VALUES (2); ROLLBACK TO x;
        INSERT INTO s_b VALUES (3); SAVEPOINT y; INSERT INTO s_b VALUES (4); RELEASE y; RELEASE SAVEPOINT x; COMMIT;
        SAVEPOINT z; INSERT INTO s_b VALUES (5); RELEASE z;
        SAVEPOINT w; INSERT INTO s_b VALUES (6); ROLLBACK TRANSACTION TO SAVEPOINT w; RELEASE w;",
        Ends::Well,
    ),
    (
        "an open transaction at the end is undone",
        "CREATE TABLE s_c (id INTEGER PRIMARY KEY); INSERT INTO s_c VALUES (1); BEGIN; INSERT INTO s_c VALUES (2);",
        Ends::Refused,
    ),
    (
        "a script stops at its first error",
        "CREATE TABLE s_d (id INTEGER PRIMARY KEY); INSERT INTO s_d VALUES (1);
        INSERT INTO s_d VALUES (1); INSERT INTO s_d VALUES (2); DROP TABLE s_d;",
        Ends::Failed,
    ),
    (
        "an error in a transaction undoes the transaction",
        "CREATE TABLE s_e (id INTEGER PRIMARY KEY); INSERT INTO s_e VALUES (1);
        BEGIN; INSERT INTO s_e VALUES (2); INSERT INTO s_e VALUES (1); INSERT INTO s_e VALUES (3); COMMIT;",
        Ends::Failed,
    ),
    (
        "a rebuild whose copy fails drops nothing",
        "CREATE TABLE s_f (id INTEGER PRIMARY KEY, n INT); INSERT INTO s_f VALUES (1, NULL);
        BEGIN; CREATE TABLE new_s_f (id INTEGER PRIMARY KEY, n INT NOT NULL); INSERT INTO new_s_f SELECT * FROM s_f;
        DROP TABLE s_f; ALTER TABLE new_s_f RENAME TO s_f; COMMIT;",
        Ends::Failed,
    ),
    (
        "the same text twice is done twice",
        "CREATE TABLE s_g (x); INSERT INTO s_g VALUES (1); DROP TABLE s_g; CREATE TABLE s_g (x); INSERT INTO s_g VALUES (2);
        CREATE INDEX s_g_x ON s_g (x); DROP INDEX s_g_x; CREATE INDEX s_g_x ON s_g (x);
        CREATE VIEW s_g_v AS SELECT x FROM s_g; DROP VIEW s_g_v; CREATE VIEW s_g_v AS SELECT x FROM s_g;",
        Ends::Well,
    ),
    (
        "schema in a transaction is undone with it",
        "CREATE TABLE s_h (id INTEGER PRIMARY KEY); INSERT INTO s_h VALUES (1);
        BEGIN; ALTER TABLE s_h ADD COLUMN n INT; CREATE TABLE s_h2 (y); INSERT INTO s_h2 VALUES (1); DROP TABLE s_h2;
        UPDATE s_h SET n = 1; ROLLBACK;
        BEGIN; ALTER TABLE s_h ADD COLUMN m INT; UPDATE s_h SET m = 7; COMMIT;",
        Ends::Well,
    ),
    (
        "deferred checks are made at COMMIT",
        "CREATE TABLE s_i (id INTEGER PRIMARY KEY); CREATE TABLE s_j (id INTEGER PRIMARY KEY, i INT REFERENCES s_i (id));
        BEGIN; PRAGMA defer_foreign_keys = ON; INSERT INTO s_j VALUES (1, 1); INSERT INTO s_i VALUES (1); COMMIT;
        BEGIN; PRAGMA defer_foreign_keys = ON; INSERT INTO s_j VALUES (2, 2); COMMIT;",
        Ends::Failed,
    ),
    (
        "keys are on unless a script says otherwise",
        "CREATE TABLE s_k (id INTEGER PRIMARY KEY); CREATE TABLE s_l (k INT REFERENCES s_k (id) ON DELETE CASCADE);
        INSERT INTO s_k VALUES (1), (2); INSERT INTO s_l VALUES (1), (2); DELETE FROM s_k WHERE id = 1;
        PRAGMA foreign_keys = OFF; DROP TABLE s_k; CREATE TABLE s_k (id INTEGER PRIMARY KEY, n INT);
        INSERT INTO s_k (id) VALUES (2); PRAGMA foreign_keys = ON; INSERT INTO s_l VALUES (3);",
        Ends::Failed,
    ),
];

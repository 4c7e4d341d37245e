//! Scripts by chance.
//!
//! Input: a random generator. Output: a [`Script`] over tables whose names end in a text of its own.

use crate::sim::random::Rng;

/// How the statements are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To `flotilla sql`, as a file: the first error ends it.
    Shell,
    /// As a list in one request: each statement is done, whatever became of those before it.
    Request,
}

/// A script, and what there is before it.
#[derive(Clone, Debug)]
pub struct Script {
    /// How it is given.
    pub way: Way,
    /// What all its names end in.
    pub tag: String,
    /// Statements that make tables and rows.
    pub setup: Vec<String>,
    /// Tables that are sharded by their `id`.
    pub sharded: Vec<String>,
    /// The statements under test.
    pub statements: Vec<String>,
}

/// Rows of a table at first.
const ROWS: u64 = 4;

struct Writer<'a> {
    rng: &'a mut Rng,
    /// A statement may be given that fails.
    errors: bool,
    out: Vec<String>,
    names: u64,
}

impl Script {
    /// One of a seed.
    pub fn random(rng: &mut Rng, tag: &str) -> Self {
        let way = if rng.percent(35) { Way::Request } else { Way::Shell };
        let sharded = rng.percent(40);
        let reference = match (sharded, rng.below(4)) {
            (true, _) | (_, 0) => "",
            (_, 1) => " REFERENCES p# (id)",
            (_, 2) => " REFERENCES p# (id) ON DELETE SET NULL",
            _ => " REFERENCES p# (id) ON DELETE CASCADE",
        };
        let mut setup = vec![
            "CREATE TABLE p# (id INTEGER PRIMARY KEY, name TEXT NOT NULL, num INT)".to_owned(),
            format!("CREATE TABLE c# (id INTEGER PRIMARY KEY, pid INTEGER{reference}, num INT)"),
        ];
        setup.extend((1..=ROWS).map(|id| format!("INSERT INTO p# VALUES ({id}, 'name {id}', {})", id * 2)));
        setup.extend((1..=ROWS).map(|id| format!("INSERT INTO c# VALUES ({id}, {}, 0)", id % 3 + 1)));
        let errors = rng.percent(30);
        let mut writer = Writer { rng, errors, out: vec![], names: 0 };
        for _ in 0..writer.rng.within(1, 3) {
            match way {
                Way::Shell => writer.part(),
                Way::Request => writer.repeated(),
            }
        }
        let named = |texts: Vec<String>| texts.iter().map(|text| text.replace('#', tag)).collect();
        Self {
            way,
            tag: tag.to_owned(),
            setup: named(setup),
            sharded: if sharded { named(vec!["p#".into(), "c#".into()]) } else { vec![] },
            statements: named(writer.out),
        }
    }

    /// Its text.
    pub fn text(&self) -> String {
        self.statements.iter().map(|statement| format!("{statement};\n")).collect()
    }
}

impl Writer<'_> {
    fn put(&mut self, statement: impl Into<String>) {
        self.out.push(statement.into());
    }

    fn part(&mut self) {
        match self.rng.below(10) {
            0..=3 => self.transaction(),
            4..=6 => self.rebuild(),
            7 => self.repeated(),
            8 => self.savepoint(),
            _ => self.change(),
        }
    }

    fn transaction(&mut self) {
        self.put_one(&["BEGIN", "BEGIN TRANSACTION", "BEGIN IMMEDIATE", "begin deferred transaction"]);
        if self.rng.percent(15) {
            self.put("PRAGMA defer_foreign_keys = ON");
        }
        for _ in 0..self.rng.within(1, 3) {
            match self.rng.below(8) {
                0 => self.savepoint(),
                1 => self.repeated(),
                _ => self.change(),
            }
        }
        match self.rng.below(20) {
            // What is open at the end is undone.
            0 => (),
            1..=7 => self.put_one(&["ROLLBACK", "ROLLBACK TRANSACTION", "rollback"]),
            _ => self.put_one(&["COMMIT", "COMMIT TRANSACTION", "END", "commit"]),
        }
    }

    fn put_one(&mut self, all: &[&str]) {
        let one = self.rng.pick(all);
        self.put(one);
    }

    fn savepoint(&mut self) {
        self.put("SAVEPOINT one");
        self.change();
        if self.rng.percent(50) {
            self.put("ROLLBACK TO one");
        }
        if self.rng.percent(40) {
            self.change();
        }
        self.put_one(&["RELEASE one", "RELEASE SAVEPOINT one"]);
    }

    /// One change of rows, which seldom fails.
    fn change(&mut self) {
        let id = self.rng.within(1, ROWS + 2);
        if self.errors && self.rng.percent(25) {
            let text = self.rng.pick(&[
                "INSERT INTO p# VALUES (1, 'again', 1)",
                "INSERT INTO p# (id, name) VALUES (77, NULL)",
                "INSERT INTO no_such_table VALUES (1)",
                "UPDATE p# SET nothing = 1",
                "INSERT INTO c# VALUES (78, 99, 0)",
                "SELEC 1",
            ]);
            return self.put(text);
        }
        let fresh = 100 + self.out.len();
        let text = match self.rng.below(9) {
            0 => format!("INSERT INTO p# VALUES ({fresh}, 'new; one', {id})"),
            1 => format!("INSERT INTO c# VALUES ({fresh}, {}, {id})", id.min(ROWS)),
            2 => format!("UPDATE p# SET num = num + 10 WHERE id = {id}"),
            3 => format!("UPDATE c# SET num = 5 WHERE id = {id}"),
            4 => format!("DELETE FROM c# WHERE id = {id}"),
            5 => format!("DELETE FROM p# WHERE id = {id}"),
            6 => format!("INSERT OR REPLACE INTO p# VALUES ({id}, 'replaced', 0)"),
            7 => "SELECT count(*) FROM p#".to_owned(),
            _ => format!("INSERT INTO c# SELECT id + {fresh}, id, num FROM p# WHERE id = {id}"),
        };
        self.put(text);
    }

    /// A table made anew under its name, as migrations do it.
    fn rebuild(&mut self) {
        let (name, columns, list) = match self.rng.below(3) {
            0 => ("c#", "(id INTEGER PRIMARY KEY, pid INTEGER, num INT DEFAULT 3)", "id, pid, num"),
            _ => ("p#", "(id INTEGER PRIMARY KEY, name TEXT NOT NULL, num INT DEFAULT 7)", "id, name, num"),
        };
        let (off, on) = self.rng.pick(&[
            ("PRAGMA foreign_keys=OFF", "PRAGMA foreign_keys=ON"),
            ("PRAGMA foreign_keys=OFF", "PRAGMA foreign_keys=ON"),
            ("PRAGMA foreign_keys = 0", "PRAGMA foreign_keys = 1"),
            ("PRAGMA defer_foreign_keys=ON", "PRAGMA defer_foreign_keys=OFF"),
            ("", ""),
        ]);
        if !off.is_empty() {
            self.put(off);
        }
        // In a transaction that drops a table foreign keys are off unless the script says otherwise, as in the shell
        // of SQLite; SQLite here has them on.
        let together = self.rng.percent(50) && off.starts_with("PRAGMA foreign_keys");
        if together {
            self.put("BEGIN");
        }
        // What is copied from has perhaps no such column: then nothing may be dropped.
        let from = if self.errors && self.rng.percent(40) { format!("{list}_old") } else { list.to_owned() };
        if self.rng.percent(70) {
            self.put(format!("CREATE TABLE new_{name} {columns}"));
            self.put(format!("INSERT INTO new_{name} ({list}) SELECT {from} FROM {name}"));
            self.put(format!("DROP TABLE {name}"));
            self.put(format!("ALTER TABLE new_{name} RENAME TO {name}"));
        } else {
            self.put(format!("CREATE TABLE old_{name} {columns}"));
            self.put(format!("INSERT INTO old_{name} SELECT {from} FROM {name}"));
            self.put(format!("DROP TABLE {name}"));
            self.put(format!("CREATE TABLE {name} {columns}"));
            self.put(format!("INSERT INTO {name} SELECT {list} FROM old_{name}"));
            self.put(format!("DROP TABLE old_{name}"));
        }
        if self.rng.percent(30) {
            self.put(format!("CREATE INDEX i{}_{name} ON {name} (num)", self.names));
            self.names += 1;
        }
        if together {
            self.put("COMMIT");
        }
        if !on.is_empty() && self.rng.percent(80) {
            self.put(on);
        }
    }

    /// The same schema text more than once.
    fn repeated(&mut self) {
        let number = self.names;
        self.names += 1;
        let table = format!("t{number}_#");
        match self.rng.below(7) {
            0 | 1 => {
                let create = format!("CREATE TABLE {table} (x, y DEFAULT 2)");
                self.again(&create, &format!("INSERT INTO {table} (x) VALUES (1)"), &format!("DROP TABLE {table}"));
            }
            2 => {
                let create = format!("CREATE TABLE {table} AS SELECT id, num FROM p#");
                self.again(&create, "UPDATE p# SET num = num + 1 WHERE id = 1", &format!("DROP TABLE {table}"));
            }
            3 => {
                let create = format!("CREATE UNIQUE INDEX i{number}_# ON p# (id, num)");
                self.again(&create, "SELECT count(*) FROM p#", &format!("DROP INDEX i{number}_#"));
            }
            4 => {
                let create = format!("CREATE VIEW v{number}_# AS SELECT id, num FROM p# WHERE num > 2");
                self.again(&create, &format!("SELECT count(*) FROM v{number}_#"), &format!("DROP VIEW v{number}_#"));
            }
            5 => {
                self.put(format!("CREATE TABLE {table} (x)"));
                let rename = format!("ALTER TABLE {table} RENAME TO r{table}");
                self.again(
                    &rename,
                    &format!("INSERT INTO r{table} VALUES (1)"),
                    &format!("ALTER TABLE r{table} RENAME TO {table}"),
                );
            }
            _ => {
                self.put(format!("CREATE TABLE {table} (x)"));
                let add = format!("ALTER TABLE {table} ADD COLUMN y DEFAULT 5");
                self.again(
                    &add,
                    &format!("INSERT INTO {table} (x) VALUES (1)"),
                    &format!("ALTER TABLE {table} DROP COLUMN y"),
                );
            }
        }
    }

    fn again(&mut self, create: &str, between: &str, remove: &str) {
        for time in 0..self.rng.within(2, 3) {
            if time > 0 {
                self.put(remove);
            }
            self.put(create);
            self.put(between);
        }
    }
}

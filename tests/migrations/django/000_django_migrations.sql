
            SELECT name, type FROM sqlite_master
            WHERE type in ('table', 'view') AND NOT name='sqlite_sequence'
            ORDER BY name;
PRAGMA foreign_keys = OFF;
PRAGMA foreign_keys;
BEGIN;
CREATE TABLE "django_migrations" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "app" varchar(255) NOT NULL, "name" varchar(255) NOT NULL, "applied" datetime NOT NULL);
PRAGMA foreign_key_check;
COMMIT;
PRAGMA foreign_keys = ON;

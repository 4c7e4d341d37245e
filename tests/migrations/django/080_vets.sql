PRAGMA foreign_keys = OFF;
PRAGMA foreign_keys;
BEGIN;
CREATE TABLE "kennel_vet" ("id" smallint NOT NULL PRIMARY KEY, "name" varchar(40) COLLATE NOCASE NOT NULL, "since" datetime DEFAULT (STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW')) NOT NULL, CONSTRAINT "vet_name" UNIQUE ("name"));
INSERT INTO "django_migrations" ("app", "name", "applied") VALUES ('kennel', '0080_vets', '2026-12-01 08:45:41.938481') RETURNING "django_migrations"."id";
PRAGMA foreign_key_check;
COMMIT;
PRAGMA foreign_keys = ON;

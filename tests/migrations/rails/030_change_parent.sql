BEGIN IMMEDIATE TRANSACTION;
PRAGMA foreign_keys;
PRAGMA defer_foreign_keys;
PRAGMA defer_foreign_keys = ON;
PRAGMA foreign_keys = OFF;
CREATE TEMPORARY TABLE "afarms" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "name" varchar NOT NULL, "created_at" datetime(6) NOT NULL);
CREATE UNIQUE INDEX "tindex_afarms_on_name" ON "afarms" ("name");
INSERT INTO "afarms" ("id","name","created_at")
                     SELECT "id","name","created_at" FROM "farms";
DROP TABLE "farms";
CREATE TABLE "farms" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "name" varchar DEFAULT 'unnamed' NOT NULL, "created_at" datetime(6) NOT NULL);
CREATE UNIQUE INDEX "index_farms_on_name" ON "farms" ("name");
INSERT INTO "farms" ("id","name","created_at")
                     SELECT "id","name","created_at" FROM "afarms";
DROP TABLE "afarms";
PRAGMA defer_foreign_keys = 0;
PRAGMA foreign_keys = 1;
ALTER TABLE "bees" ADD "hive" varchar DEFAULT 'log' NOT NULL;
INSERT INTO "schema_migrations" ("version") VALUES ('20240103000000') RETURNING "version";
COMMIT TRANSACTION;

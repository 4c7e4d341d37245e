BEGIN IMMEDIATE TRANSACTION;
PRAGMA foreign_keys;
PRAGMA defer_foreign_keys;
PRAGMA defer_foreign_keys = ON;
PRAGMA foreign_keys = OFF;
CREATE TEMPORARY TABLE "abees" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "farm_id" integer NOT NULL, "label" varchar DEFAULT NULL, "weight" decimal(8,2), "queen" boolean DEFAULT 0, "tags" json DEFAULT '[]');
CREATE INDEX "tindex_abees_on_farm_id" ON "abees" ("farm_id");
INSERT INTO "abees" ("id","farm_id","label","weight","queen","tags")
                     SELECT "id","farm_id","label","weight","queen","tags" FROM "bees";
DROP TABLE "bees";
CREATE TABLE "bees" ("id" integer PRIMARY KEY AUTOINCREMENT NOT NULL, "farm_id" integer NOT NULL, "label" text, "weight" decimal(8,2), "queen" boolean DEFAULT 0, "tags" json DEFAULT '[]', CONSTRAINT "fk_rails_0b8f4f4f10" FOREIGN KEY ("farm_id") REFERENCES "farms" ("id"));
CREATE INDEX "index_bees_on_farm_id" ON "bees" ("farm_id");
INSERT INTO "bees" ("id","farm_id","label","weight","queen","tags")
                     SELECT "id","farm_id","label","weight","queen","tags" FROM "abees";
DROP TABLE "abees";
PRAGMA defer_foreign_keys = 0;
PRAGMA foreign_keys = 1;
INSERT INTO "schema_migrations" ("version") VALUES ('20240102000000') RETURNING "version";
COMMIT TRANSACTION;

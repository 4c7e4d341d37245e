PRAGMA foreign_keys = OFF;
PRAGMA foreign_keys;
BEGIN;
CREATE TABLE "kennel_owner" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "name" varchar(80) NOT NULL, "email" varchar(254) NOT NULL UNIQUE, "referrer_id" bigint NULL REFERENCES "kennel_owner" ("id") DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE "kennel_breed" ("code" varchar(8) NOT NULL PRIMARY KEY);
CREATE TABLE "kennel_trait" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "label" varchar(30) NOT NULL UNIQUE);
CREATE TABLE "kennel_dog" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "name" varchar(40) NOT NULL, "weight" real NOT NULL, "owner_id" bigint NOT NULL REFERENCES "kennel_owner" ("id") DEFERRABLE INITIALLY DEFERRED, "breed_id" varchar(8) NULL REFERENCES "kennel_breed" ("code") DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE "kennel_dog_traits" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "dog_id" bigint NOT NULL REFERENCES "kennel_dog" ("id") DEFERRABLE INITIALLY DEFERRED, "trait_id" bigint NOT NULL REFERENCES "kennel_trait" ("id") DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE "kennel_visit" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT, "owner_id" bigint NOT NULL REFERENCES "kennel_owner" ("id") DEFERRABLE INITIALLY DEFERRED, "reason" text NOT NULL, "fee" decimal NOT NULL);
CREATE TABLE "kennel_weighing" ("id" bigint NOT NULL PRIMARY KEY, "grams" integer NOT NULL, "scan" BLOB NULL);
PRAGMA foreign_key_check;
CREATE INDEX "kennel_owner_referrer_id_0ea1d029" ON "kennel_owner" ("referrer_id");
CREATE INDEX "kennel_dog_owner_id_eeddfe63" ON "kennel_dog" ("owner_id");
CREATE INDEX "kennel_dog_breed_id_813c5543" ON "kennel_dog" ("breed_id");
CREATE UNIQUE INDEX "kennel_dog_traits_dog_id_trait_id_531c4eef_uniq" ON "kennel_dog_traits" ("dog_id", "trait_id");
CREATE INDEX "kennel_dog_traits_dog_id_15b2a2b8" ON "kennel_dog_traits" ("dog_id");
CREATE INDEX "kennel_dog_traits_trait_id_88542faa" ON "kennel_dog_traits" ("trait_id");
CREATE INDEX "kennel_visit_owner_id_1629386f" ON "kennel_visit" ("owner_id");
COMMIT;
PRAGMA foreign_keys = ON;

            SELECT name, type FROM sqlite_master
            WHERE type in ('table', 'view') AND NOT name='sqlite_sequence'
            ORDER BY name;
INSERT INTO "django_migrations" ("app", "name", "applied") VALUES ('kennel', '0010_init', '2026-12-01 08:45:41.452076') RETURNING "django_migrations"."id";

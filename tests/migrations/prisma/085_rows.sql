INSERT INTO "Branch" ("id", "city", "zone") VALUES ('c', 'Ostrava', 'east');
INSERT INTO "visits" ("id", "page") VALUES (9007199254740993, '/end');
INSERT INTO "Tag" ("id", "label") VALUES (3, 'rare');
INSERT INTO "_BookToTag" ("A", "B") VALUES (9, 3);
DELETE FROM "Order" WHERE "id" = 10;

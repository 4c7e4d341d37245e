INSERT INTO "Branch" ("id", "city", "zone") VALUES (1, 'Brno', 'east'), (2, 'Plzeň', 'west');
UPDATE "Book" SET "branchId" = 1 WHERE "id" IN (1, 2);
UPDATE "Book" SET "branchId" = 2, "authorId" = NULL WHERE "id" = 9;

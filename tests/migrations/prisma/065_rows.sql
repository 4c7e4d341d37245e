INSERT INTO "Item" ("id", "shelf", "bookId") VALUES (1, 'c1', 1);
INSERT INTO "Item" ("id", "bookId") VALUES (2, 9);

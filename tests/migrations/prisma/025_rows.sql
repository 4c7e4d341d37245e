INSERT INTO "Line" ("orderId", "number", "bookId", "count") VALUES (10, 1, 1, 2);
INSERT INTO "Line" ("orderId", "number", "bookId") VALUES (10, 2, 2);
INSERT INTO "Line" ("orderId", "number", "bookId", "count") VALUES (11, 1, 9, 5);
INSERT INTO "Line" ("orderId", "number", "bookId", "count") VALUES (12, 1, 1, 1);

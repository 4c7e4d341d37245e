INSERT INTO "Member" ("id", "email", "name", "joined", "inviterId") VALUES (4, 'dee@example.org', 'Dee', '2024-02-29 12:00:00', 3);
INSERT INTO "Order" ("id", "memberId") VALUES (13, 4);
INSERT INTO "Line" ("orderId", "number", "bookId") VALUES (13, 1, 3);
UPDATE "Book" SET "isbn" = 'isbn-' || "id" WHERE "id" < 3;
UPDATE "Order" SET "note" = 'filled' WHERE "id" = 13;

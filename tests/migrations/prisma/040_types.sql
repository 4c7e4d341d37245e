-- RedefineTables
PRAGMA defer_foreign_keys=ON;
PRAGMA foreign_keys=OFF;
CREATE TABLE "new_Book" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "title" TEXT NOT NULL,
    "price" DECIMAL NOT NULL DEFAULT 9.5,
    "isbn" TEXT,
    "pages" INTEGER NOT NULL DEFAULT 100,
    "cover" BLOB,
    "authorId" INTEGER NOT NULL,
    CONSTRAINT "Book_authorId_fkey" FOREIGN KEY ("authorId") REFERENCES "Author" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);
INSERT INTO "new_Book" ("authorId", "cover", "id", "isbn", "pages", "price", "title") SELECT "authorId", "cover", "id", "isbn", "pages", "price", "title" FROM "Book";
DROP TABLE "Book";
ALTER TABLE "new_Book" RENAME TO "Book";
CREATE UNIQUE INDEX "Book_isbn_key" ON "Book"("isbn");
CREATE INDEX "Book_authorId_idx" ON "Book"("authorId");
CREATE TABLE "new_Copy" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "shelf" TEXT DEFAULT 'store',
    "bookId" INTEGER NOT NULL,
    CONSTRAINT "Copy_bookId_fkey" FOREIGN KEY ("bookId") REFERENCES "Book" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);
INSERT INTO "new_Copy" ("bookId", "id", "shelf") SELECT "bookId", "id", "shelf" FROM "Copy";
DROP TABLE "Copy";
ALTER TABLE "new_Copy" RENAME TO "Copy";
CREATE TABLE "new_Order" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "memberId" INTEGER NOT NULL,
    "state" TEXT NOT NULL DEFAULT 'open',
    "note" TEXT NOT NULL DEFAULT 'none',
    CONSTRAINT "Order_memberId_fkey" FOREIGN KEY ("memberId") REFERENCES "Member" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);
INSERT INTO "new_Order" ("id", "memberId", "note", "state") SELECT "id", "memberId", coalesce("note", 'none') AS "note", "state" FROM "Order";
DROP TABLE "Order";
ALTER TABLE "new_Order" RENAME TO "Order";
CREATE TABLE "new_Line" (
    "orderId" INTEGER NOT NULL,
    "number" INTEGER NOT NULL,
    "bookId" INTEGER NOT NULL,
    "count" BIGINT DEFAULT 1,

    PRIMARY KEY ("orderId", "number"),
    CONSTRAINT "Line_orderId_fkey" FOREIGN KEY ("orderId") REFERENCES "Order" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "Line_bookId_fkey" FOREIGN KEY ("bookId") REFERENCES "Book" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);
INSERT INTO "new_Line" ("bookId", "count", "number", "orderId") SELECT "bookId", "count", "number", "orderId" FROM "Line";
DROP TABLE "Line";
ALTER TABLE "new_Line" RENAME TO "Line";
PRAGMA foreign_keys=ON;
PRAGMA defer_foreign_keys=OFF;

-- DropIndex
DROP INDEX "Book_authorId_idx";

-- DropTable
PRAGMA foreign_keys=off;
DROP TABLE "Copy";
PRAGMA foreign_keys=on;

-- CreateTable
CREATE TABLE "Item" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "shelf" TEXT DEFAULT 'store',
    "bookId" INTEGER NOT NULL,
    CONSTRAINT "Item_bookId_fkey" FOREIGN KEY ("bookId") REFERENCES "Book" ("id") ON DELETE CASCADE ON UPDATE CASCADE
);

-- CreateIndex
CREATE INDEX "Book_authorId_title_idx" ON "Book"("authorId", "title");

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
    "authorId" INTEGER,
    "branchId" TEXT,
    CONSTRAINT "Book_authorId_fkey" FOREIGN KEY ("authorId") REFERENCES "Author" ("id") ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT "Book_branchId_fkey" FOREIGN KEY ("branchId") REFERENCES "Branch" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);
INSERT INTO "new_Book" ("authorId", "branchId", "cover", "id", "isbn", "pages", "price", "title") SELECT "authorId", "branchId", "cover", "id", "isbn", "pages", "price", "title" FROM "Book";
DROP TABLE "Book";
ALTER TABLE "new_Book" RENAME TO "Book";
CREATE UNIQUE INDEX "Book_isbn_key" ON "Book"("isbn");
CREATE INDEX "Book_authorId_title_idx" ON "Book"("authorId", "title");
CREATE TABLE "new_Branch" (
    "id" TEXT NOT NULL PRIMARY KEY,
    "city" TEXT NOT NULL,
    "zone" TEXT NOT NULL
);
INSERT INTO "new_Branch" ("city", "id", "zone") SELECT "city", "id", "zone" FROM "Branch";
DROP TABLE "Branch";
ALTER TABLE "new_Branch" RENAME TO "Branch";
CREATE UNIQUE INDEX "Branch_zone_city_key" ON "Branch"("zone", "city");
CREATE TABLE "new_Tag" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "label" TEXT NOT NULL,
    "color" TEXT NOT NULL DEFAULT 'grey'
);
INSERT INTO "new_Tag" ("id", "label") SELECT "id", "label" FROM "Tag";
DROP TABLE "Tag";
ALTER TABLE "new_Tag" RENAME TO "Tag";
CREATE UNIQUE INDEX "Tag_label_key" ON "Tag"("label");
CREATE TABLE "new_visits" (
    "id" BIGINT NOT NULL PRIMARY KEY,
    "page" TEXT NOT NULL,
    "ms" INTEGER NOT NULL DEFAULT 5
);
INSERT INTO "new_visits" ("id", "ms", "page") SELECT "id", "ms", "page" FROM "visits";
DROP TABLE "visits";
ALTER TABLE "new_visits" RENAME TO "visits";
PRAGMA foreign_keys=ON;
PRAGMA defer_foreign_keys=OFF;

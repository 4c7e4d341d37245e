-- CreateTable
CREATE TABLE "Line" (
    "orderId" INTEGER NOT NULL,
    "number" INTEGER NOT NULL,
    "bookId" INTEGER NOT NULL,
    "count" INTEGER NOT NULL DEFAULT 1,

    PRIMARY KEY ("orderId", "number"),
    CONSTRAINT "Line_orderId_fkey" FOREIGN KEY ("orderId") REFERENCES "Order" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    CONSTRAINT "Line_bookId_fkey" FOREIGN KEY ("bookId") REFERENCES "Book" ("id") ON DELETE RESTRICT ON UPDATE CASCADE
);

-- CreateTable
CREATE TABLE "Branch" (
    "id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    "city" TEXT NOT NULL,
    "zone" TEXT NOT NULL
);

-- CreateIndex
CREATE UNIQUE INDEX "Branch_zone_city_key" ON "Branch"("zone", "city");

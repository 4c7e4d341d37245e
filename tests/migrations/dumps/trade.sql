-- A wholesaler: {n} orders and what belongs to them, each with {w} bytes of a scan. {p} begins each name.
CREATE TABLE [{p}Regions] ([RegionID] INTEGER NOT NULL PRIMARY KEY, [Description] TEXT NOT NULL);
CREATE TABLE [{p}Territories] ([TerritoryID] TEXT NOT NULL, [Description] TEXT NOT NULL, [RegionID] INTEGER NOT NULL,
    PRIMARY KEY ([TerritoryID]), FOREIGN KEY ([RegionID]) REFERENCES [{p}Regions] ([RegionID]) ON DELETE NO ACTION ON UPDATE NO ACTION);
CREATE TABLE `{p}Categories` (`CategoryID` INTEGER PRIMARY KEY AUTOINCREMENT, `Name` TEXT, `Picture` BLOB);
CREATE TABLE "{p}Suppliers" ("SupplierID" INTEGER PRIMARY KEY AUTOINCREMENT, "Company" TEXT NOT NULL, "HomePage" TEXT);
CREATE TABLE "{p}Products" ("ProductID" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "Name" TEXT NOT NULL, "SupplierID" INTEGER, "CategoryID" INTEGER,
    "UnitPrice" NUMERIC DEFAULT 0, "Discontinued" TEXT NOT NULL DEFAULT '0',
    CHECK ("UnitPrice" >= 0), FOREIGN KEY ("CategoryID") REFERENCES "{p}Categories" ("CategoryID"), FOREIGN KEY ("SupplierID") REFERENCES "{p}Suppliers");
CREATE TABLE "{p}Employees" ("EmployeeID" INTEGER PRIMARY KEY AUTOINCREMENT, "LastName" TEXT, "ReportsTo" INTEGER, "Photo" BLOB, "Office" TEXT,
    FOREIGN KEY ("ReportsTo") REFERENCES "{p}Employees" ("EmployeeID"), FOREIGN KEY ("Office") REFERENCES "{p}Offices" ("City") ON UPDATE CASCADE);
CREATE TABLE "{p}Offices" ("City" TEXT PRIMARY KEY, "Head" INTEGER REFERENCES "{p}Employees" ("EmployeeID"), "Phone; day" TEXT);
CREATE TABLE "{p}Employee Territories" ("EmployeeID" INTEGER NOT NULL REFERENCES "{p}Employees" ON DELETE CASCADE, "TerritoryID" TEXT NOT NULL REFERENCES "{p}Territories",
    PRIMARY KEY ("EmployeeID", "TerritoryID")) WITHOUT ROWID, STRICT;
CREATE TABLE "{p}Customers" ("CustomerID" TEXT, "Company" TEXT, PRIMARY KEY ("CustomerID"));
CREATE TABLE "{p}Orders" ("OrderID" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "CustomerID" TEXT, "EmployeeID" INTEGER, "OrderDate" DATETIME, "Freight" NUMERIC DEFAULT 0, "Scan" BLOB,
    FOREIGN KEY ("EmployeeID") REFERENCES "{p}Employees" ("EmployeeID"), FOREIGN KEY ("CustomerID") REFERENCES "{p}Customers" ("CustomerID"));
CREATE TABLE "{p}Order Details" ("OrderID" INTEGER NOT NULL, "ProductID" INTEGER NOT NULL, "UnitPrice" NUMERIC NOT NULL DEFAULT 0, "Quantity" INTEGER NOT NULL DEFAULT 1, "Discount" REAL NOT NULL DEFAULT 0,
    PRIMARY KEY ("OrderID", "ProductID"), CHECK ("Discount" >= 0 AND "Discount" <= 1),
    FOREIGN KEY ("OrderID") REFERENCES "{p}Orders" ("OrderID") ON DELETE CASCADE, FOREIGN KEY ("ProductID") REFERENCES "{p}Products" ("ProductID"));
CREATE TABLE "{p}notes"(x, y ANY, "a ""quoted"" name" INTEGER);

BEGIN;
PRAGMA defer_foreign_keys = ON;
INSERT INTO "{p}Regions" VALUES (1, 'East' || printf('%40s', '')), (2, 'West');
INSERT INTO "{p}Territories" VALUES ('01581', 'Westboro', 1), ('1', 'One', 2), ('x''y', 'apostrophe', 2);
INSERT INTO "{p}Categories" VALUES (1, 'Drinks', zeroblob(300)), (2, 'Lebkuchen; süß', x'151C2F00020000000D'), (7, NULL, NULL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 29)
INSERT INTO "{p}Suppliers" SELECT i, 'Supplier ' || i || char(8232), 'http://example.org/#' || i || ';--' FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 77)
INSERT INTO "{p}Products" SELECT i, 'Product' || char(9) || i, i % 29 + 1, i % 2 + 1, i * 1.1, i % 2 FROM n;
INSERT INTO "{p}Employees" VALUES (1, 'Ng', 2, x'00', 'Oslo'), (2, 'O''Neill', NULL, x'', 'Bergen'), (8, 'Çelik', 1, NULL, NULL);
INSERT INTO "{p}Offices" VALUES ('Oslo', 8, '1'), ('Bergen', 1, '2' || char(10, 10)), ('Nowhere', NULL, NULL);
INSERT INTO "{p}Employee Territories" VALUES (1, '1'), (1, 'x''y'), (8, '01581');
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 89)
INSERT INTO "{p}Customers" SELECT char(65 + i % 26, 65 + i / 26, 88), 'Company ' || i FROM n;
INSERT INTO "{p}Customers" VALUES ('', '');
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
INSERT INTO "{p}Orders" SELECT 10247 + i, char(65 + i % 26, 65 + i % 3, 88), CASE i % 3 WHEN 0 THEN 8 ELSE i % 3 END, datetime('1996-07-04', '+' || i || ' hours'), i % 100 / 8.0, zeroblob({w}) FROM n;
WITH RECURSIVE k(j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM k WHERE j < 2)
INSERT INTO "{p}Order Details" SELECT "OrderID", ("OrderID" + j * 25) % 77 + 1, j * 10.5, j + 1, j * 0.05 FROM "{p}Orders", k;
INSERT INTO "{p}notes" VALUES (9e999, -9e999, 9223372036854775807), (-9223372036854775808, 1e300, NULL), (0.1, 4.9e-324, 'text; in an integer'),
    (x'', char(27, 1, 127), -1), ('', 'a' || char(13) || 'b' || char(10) || 'c\u000a', 0), ('unistr(''\u0041'')', '%s %d', 1.5), (1e15, 123456789012345678, 1e16), (-0.0, 100.0, 3.0);
DELETE FROM "{p}Orders" WHERE "OrderID" = 10247 + {n};
COMMIT;

CREATE INDEX "{p}Orders by; day" ON "{p}Orders" ("OrderDate" DESC, "CustomerID");
CREATE UNIQUE INDEX "{p}cheap" ON "{p}Products" ("Name") WHERE "UnitPrice" < 20 AND "Name" <> 'x;';
CREATE VIEW [{p}Order Subtotals] AS SELECT [OrderID], Sum([UnitPrice] * [Quantity] * (1 - [Discount]) * 100) / 100 AS [Subtotal] FROM [{p}Order Details] GROUP BY [OrderID];
CREATE VIEW "{p}Staff" ("who", "boss", "where") AS SELECT e."LastName", b."LastName", o."City" FROM "{p}Employees" e LEFT JOIN "{p}Employees" b ON b."EmployeeID" = e."ReportsTo" LEFT JOIN "{p}Offices" o ON o."Head" = e."EmployeeID";
CREATE TRIGGER "{p}no; free freight" BEFORE INSERT ON "{p}Orders" WHEN new."Freight" < 0 BEGIN
    SELECT CASE WHEN new."Freight" < -100 THEN RAISE(FAIL, 'far; too low') ELSE RAISE(ABORT, 'too low') END;
END;
CREATE TRIGGER "{p}renamed" AFTER UPDATE OF "Company" ON "{p}Customers" BEGIN
    INSERT INTO "{p}notes" VALUES (old."Company", new."Company", 1);
END;

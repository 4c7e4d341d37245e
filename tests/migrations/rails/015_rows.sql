INSERT INTO "farms" ("id", "name", "created_at") VALUES (1, 'Acre; one', '2024-01-01'), (2, 'Bog', '2024-01-02');
INSERT INTO "bees" ("id", "farm_id", "label", "weight") VALUES (1, 1, 'Maja', 0.25);
INSERT INTO "bees" ("id", "farm_id", "label", "queen") VALUES (2, 1, 'Willi', 1);
INSERT INTO "bees" ("id", "farm_id") VALUES (3, 2);

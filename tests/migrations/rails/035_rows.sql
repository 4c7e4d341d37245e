INSERT INTO "farms" ("id", "created_at") VALUES (3, '2024-01-03');
INSERT INTO "bees" ("id", "farm_id", "label") VALUES (4, 3, 'Flip');

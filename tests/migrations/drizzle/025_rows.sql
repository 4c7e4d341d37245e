INSERT INTO lines (order_id, number, seed_id, packs) VALUES (21, 1, 1, 2);
INSERT INTO lines (order_id, number, seed_id) VALUES (21, 2, 3);
INSERT INTO lines (order_id, number, seed_id) VALUES (22, 1, NULL);

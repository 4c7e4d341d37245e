INSERT OR IGNORE INTO lines (order_id, number, seed_id, packs) VALUES (21, 1, 1, 2);
INSERT OR IGNORE INTO lines (order_id, number, seed_id) VALUES (21, 2, 3);
INSERT OR IGNORE INTO lines (order_id, number, seed_id) VALUES (22, 1, NULL);
INSERT INTO lines (order_id, number, seed_id, packs) VALUES (23, 1, 2, 7);
INSERT INTO orders (id, grower_id) VALUES (24, 3);
INSERT INTO readings (id, sensor) VALUES (4, 'd');

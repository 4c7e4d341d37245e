INSERT INTO seeds (id, grower_id, title) VALUES (4, 4, 'flax');
INSERT INTO lines (order_id, number, seed_id) VALUES (24, 1, 4);
INSERT INTO measurements (id, sensor, value) VALUES (6, NULL, 2);
DELETE FROM lines WHERE order_id = 21 AND number = 2;

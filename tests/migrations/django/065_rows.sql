INSERT INTO kennel_visit (id, owner_id, reason, fee, paid, seen) VALUES (34, 2, 'again', NULL, 1, '2024-05-01 10:00:00');
INSERT INTO kennel_charge (visit_id, number, dog_id, cents, note) VALUES (34, 1, 3, NULL, 'x');
INSERT INTO kennel_weighing (id, grams, unit) VALUES (9007199254740993, 'heavy', 'kg');
UPDATE kennel_dog SET owner_id = NULL WHERE id = 2;

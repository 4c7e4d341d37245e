INSERT INTO kennel_charge (visit_id, number, dog_id, cents) VALUES (31, 1, 1, 1250);
INSERT INTO kennel_charge (visit_id, number, dog_id, cents) VALUES (31, 2, 2, 0);
INSERT INTO kennel_charge (visit_id, number, dog_id, cents) VALUES (32, 1, NULL, 7);

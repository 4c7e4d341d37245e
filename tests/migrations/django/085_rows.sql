INSERT INTO kennel_vet (id, name, since) VALUES (1, 'Dr. Eve', '2020-01-01 00:00:00'), (2, 'Dr. Max', '2021-01-01 00:00:00');
INSERT INTO kennel_owner_vets (id, owner_id, vet_id) VALUES (1, 1, 1), (2, 1, 2);
UPDATE kennel_visit SET vet_id = 2 WHERE id = 31;

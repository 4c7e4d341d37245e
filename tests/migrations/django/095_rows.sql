INSERT INTO kennel_vet (id, name, since) VALUES ('v3', 'Dr. Zoe', '2022-01-01 00:00:00');
DELETE FROM kennel_charge WHERE visit_id = 31;
DELETE FROM kennel_visit WHERE id = 31;

INSERT INTO person (id, name, agent_id, born) VALUES (10, 'Iris', 9, '1999-12-31');
INSERT INTO booking (id, person_id, status) VALUES (44, 10, 'held');
INSERT INTO seat (booking_id, number, play_id, row) VALUES (44, 1, 2, 3);
INSERT INTO logline (id) VALUES (3);

INSERT INTO seat (booking_id, number, play_id, row) VALUES (41, 1, 1, '12');
INSERT INTO seat (booking_id, number, play_id) VALUES (41, 2, 1);
INSERT INTO seat (booking_id, number, play_id) VALUES (42, 1, 5);
UPDATE play SET acts = 3 WHERE id = 5;

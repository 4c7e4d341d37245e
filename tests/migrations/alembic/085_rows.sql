INSERT INTO venue (id, city) VALUES (1, 'Graz'), (2, 'Łódź');
DELETE FROM booking WHERE id = 41;

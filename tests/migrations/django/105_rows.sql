INSERT INTO measures (id, grams, unit) VALUES ('m4', '1', 'g');

INSERT INTO log (id, kind) VALUES ('l-4', 'late');

INSERT INTO measurements (id, sensor) VALUES ('x7', 'e');

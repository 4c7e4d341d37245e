INSERT INTO plantings (seed_id, bed_code, at) VALUES (4, 'north', '2024-04-01');
DELETE FROM orders WHERE id = 22;

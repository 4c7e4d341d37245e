UPDATE seeds SET rarity = 'rare', sown = 1709251200 WHERE id = 2;
UPDATE beds SET grower_id = 2 WHERE code = 'north';
INSERT INTO readings (id) VALUES (5);

PRAGMA foreign_keys=OFF;
CREATE TABLE _alembic_tmp_venue (
	id VARCHAR(12) NOT NULL, 
	city VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
BEGIN;
INSERT INTO _alembic_tmp_venue (id, city) SELECT CAST(venue.id AS VARCHAR(12)) AS id, venue.city 
FROM venue;
DROP TABLE venue;
ALTER TABLE _alembic_tmp_venue RENAME TO venue;
DROP TABLE play_genre;
DROP TABLE category;
UPDATE alembic_version SET version_num='100' WHERE alembic_version.version_num = '090';
COMMIT;
PRAGMA foreign_keys=ON;

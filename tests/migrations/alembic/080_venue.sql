PRAGMA foreign_keys=OFF;
CREATE TABLE venue (
	id INTEGER NOT NULL, 
	city VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
BEGIN;
UPDATE alembic_version SET version_num='080' WHERE alembic_version.version_num = '070';
COMMIT;
PRAGMA foreign_keys=ON;

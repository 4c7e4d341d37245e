PRAGMA foreign_keys=OFF;
CREATE TABLE _alembic_tmp_log (
	id VARCHAR(24) NOT NULL, 
	kind TEXT DEFAULT 'info', 
	data JSON, 
	PRIMARY KEY (id)
);
BEGIN;
INSERT INTO _alembic_tmp_log (id, kind, data) SELECT CAST(log.id AS VARCHAR(24)) AS id, log.kind, log.data 
FROM log;
DROP TABLE log;
ALTER TABLE _alembic_tmp_log RENAME TO log;
UPDATE alembic_version SET version_num='110' WHERE alembic_version.version_num = '100';
COMMIT;
PRAGMA foreign_keys=ON;

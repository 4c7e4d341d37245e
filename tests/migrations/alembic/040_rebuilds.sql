PRAGMA foreign_keys=OFF;
CREATE TABLE _alembic_tmp_person (
	id INTEGER NOT NULL, 
	name VARCHAR(60) NOT NULL, 
	agent_id INTEGER, 
	rank VARCHAR(10) DEFAULT 'lead' NOT NULL, 
	born DATE, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_person_name UNIQUE (name), 
	CONSTRAINT fk_person_agent FOREIGN KEY(agent_id) REFERENCES person (id) ON DELETE SET NULL
);
BEGIN;
INSERT INTO _alembic_tmp_person (id, name, agent_id, rank) SELECT person.id, person.name, person.agent_id, person.rank 
FROM person;
DROP TABLE person;
ALTER TABLE _alembic_tmp_person RENAME TO person;
CREATE TABLE _alembic_tmp_booking (
	id INTEGER NOT NULL, 
	person_id INTEGER NOT NULL, 
	status VARCHAR(4) NOT NULL, 
	price FLOAT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT fk_booking_person FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE, 
	CONSTRAINT ck_status CHECK (status IN ('held', 'paid'))
);
INSERT INTO _alembic_tmp_booking (id, person_id, status, price) SELECT booking.id, booking.person_id, booking.status, CAST(booking.price AS FLOAT) AS price 
FROM booking;
DROP TABLE booking;
ALTER TABLE _alembic_tmp_booking RENAME TO booking;
CREATE TABLE _alembic_tmp_play (
	id INTEGER NOT NULL, 
	title TEXT NOT NULL, 
	author_id INTEGER NOT NULL, 
	acts SMALLINT DEFAULT 5 NOT NULL, 
	script BLOB, 
	minutes INTEGER DEFAULT '90' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT fk_play_author FOREIGN KEY(author_id) REFERENCES person (id) ON DELETE CASCADE
);
INSERT INTO _alembic_tmp_play (id, title, author_id, acts, script, minutes) SELECT play.id, play.title, play.author_id, play.acts, play.script, play.minutes 
FROM play;
DROP TABLE play;
ALTER TABLE _alembic_tmp_play RENAME TO play;
CREATE INDEX ix_play_title ON play (title);
CREATE INDEX ix_play_short ON play (minutes) WHERE minutes < 100;
CREATE TABLE _alembic_tmp_logline (
	id BIGINT NOT NULL, 
	kind TEXT DEFAULT 'info', 
	data JSON, 
	PRIMARY KEY (id)
);
INSERT INTO _alembic_tmp_logline (id, kind, data) SELECT logline.id, logline.kind, logline.data 
FROM logline;
DROP TABLE logline;
ALTER TABLE _alembic_tmp_logline RENAME TO logline;
UPDATE alembic_version SET version_num='040' WHERE alembic_version.version_num = '030';
COMMIT;
PRAGMA foreign_keys=ON;

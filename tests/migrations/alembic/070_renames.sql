PRAGMA foreign_keys=OFF;
CREATE TABLE _alembic_tmp_booking (
	id INTEGER NOT NULL, 
	person_id INTEGER NOT NULL, 
	status VARCHAR(4) NOT NULL, 
	cost FLOAT DEFAULT '0' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT ck_status CHECK (status IN ('held', 'paid')), 
	CONSTRAINT fk_booking_person FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE
);
BEGIN;
INSERT INTO _alembic_tmp_booking (id, person_id, status, cost) SELECT booking.id, booking.person_id, booking.status, booking.price 
FROM booking;
DROP TABLE booking;
ALTER TABLE _alembic_tmp_booking RENAME TO booking;
CREATE TABLE _alembic_tmp_play (
	id INTEGER NOT NULL, 
	title TEXT NOT NULL, 
	author_id INTEGER, 
	acts SMALLINT DEFAULT 5 NOT NULL, 
	script BLOB, 
	length INTEGER DEFAULT '90' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_play_title UNIQUE (title, author_id), 
	CONSTRAINT fk_play_writer FOREIGN KEY(author_id) REFERENCES person (id) ON DELETE SET NULL
);
INSERT INTO _alembic_tmp_play (id, title, author_id, acts, script, length) SELECT play.id, play.title, play.author_id, play.acts, play.script, play.minutes 
FROM play;
DROP TABLE play;
ALTER TABLE _alembic_tmp_play RENAME TO play;
CREATE INDEX ix_play_title ON play (title);
ALTER TABLE logline RENAME TO log;
ALTER TABLE genre RENAME TO category;
UPDATE alembic_version SET version_num='070' WHERE alembic_version.version_num = '060';
COMMIT;
PRAGMA foreign_keys=ON;

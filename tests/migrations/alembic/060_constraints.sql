PRAGMA foreign_keys=OFF;
CREATE TABLE _alembic_tmp_play (
	id INTEGER NOT NULL, 
	title TEXT NOT NULL, 
	author_id INTEGER, 
	acts SMALLINT DEFAULT 5 NOT NULL, 
	script BLOB, 
	minutes INTEGER DEFAULT '90' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT fk_play_writer FOREIGN KEY(author_id) REFERENCES person (id) ON DELETE SET NULL, 
	CONSTRAINT uq_play_title UNIQUE (title, author_id)
);
BEGIN;
INSERT INTO _alembic_tmp_play (id, title, author_id, acts, script, minutes) SELECT play.id, play.title, play.author_id, play.acts, play.script, play.minutes 
FROM play;
DROP TABLE play;
ALTER TABLE _alembic_tmp_play RENAME TO play;
CREATE INDEX ix_play_short ON play (minutes) WHERE minutes < 100;
CREATE INDEX ix_play_title ON play (title);
CREATE TABLE _alembic_tmp_person (
	id INTEGER NOT NULL, 
	name VARCHAR(60) NOT NULL, 
	agent_id INTEGER, 
	rank VARCHAR(10) DEFAULT 'lead' NOT NULL, 
	born DATE, 
	PRIMARY KEY (id), 
	CONSTRAINT fk_person_agent FOREIGN KEY(agent_id) REFERENCES person (id) ON DELETE SET NULL, 
	CONSTRAINT ck_person_name CHECK (name <> '')
);
INSERT INTO _alembic_tmp_person (id, name, agent_id, rank, born) SELECT person.id, person.name, person.agent_id, person.rank, person.born 
FROM person;
DROP TABLE person;
ALTER TABLE _alembic_tmp_person RENAME TO person;
CREATE TABLE _alembic_tmp_seat (
	booking_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	play_id INTEGER NOT NULL, 
	"row" INTEGER, 
	PRIMARY KEY (booking_id, number), 
	CONSTRAINT fk_seat_play FOREIGN KEY(play_id) REFERENCES play (id) ON DELETE RESTRICT, 
	CONSTRAINT fk_seat_booking FOREIGN KEY(booking_id) REFERENCES booking (id) ON DELETE CASCADE, 
	CONSTRAINT ck_seat_number CHECK (number > 0)
);
INSERT INTO _alembic_tmp_seat (booking_id, number, play_id, "row") SELECT seat.booking_id, seat.number, seat.play_id, CAST(seat."row" AS INTEGER) AS "row" 
FROM seat;
DROP TABLE seat;
ALTER TABLE _alembic_tmp_seat RENAME TO seat;
DROP INDEX ix_play_short;
UPDATE alembic_version SET version_num='060' WHERE alembic_version.version_num = '050';
COMMIT;
PRAGMA foreign_keys=ON;

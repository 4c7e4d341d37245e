PRAGMA foreign_keys=OFF;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE person (
	id INTEGER NOT NULL, 
	name VARCHAR(60) NOT NULL, 
	agent_id INTEGER, 
	rank VARCHAR(10) DEFAULT 'extra' NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT uq_person_name UNIQUE (name), 
	CONSTRAINT fk_person_agent FOREIGN KEY(agent_id) REFERENCES person (id) ON DELETE SET NULL
);
CREATE TABLE genre (
	code VARCHAR(4) NOT NULL, 
	label VARCHAR(30) COLLATE "NOCASE" NOT NULL, 
	PRIMARY KEY (code)
);
CREATE TABLE play (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	title TEXT NOT NULL, 
	author_id INTEGER NOT NULL, 
	acts SMALLINT DEFAULT 5, 
	script BLOB, 
	CONSTRAINT fk_play_author FOREIGN KEY(author_id) REFERENCES person (id) ON DELETE CASCADE, 
	CONSTRAINT ck_play_acts CHECK (acts > 0)
);
CREATE INDEX ix_play_title ON play (title);
CREATE TABLE play_genre (
	play_id INTEGER NOT NULL, 
	genre_code VARCHAR(4) NOT NULL, 
	PRIMARY KEY (play_id, genre_code), 
	FOREIGN KEY(play_id) REFERENCES play (id) ON DELETE CASCADE, 
	FOREIGN KEY(genre_code) REFERENCES genre (code) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE TABLE booking (
	id INTEGER NOT NULL, 
	person_id INTEGER NOT NULL, 
	status VARCHAR(4) NOT NULL, 
	price NUMERIC(8, 2), 
	PRIMARY KEY (id), 
	CONSTRAINT fk_booking_person FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE, 
	CONSTRAINT ck_status CHECK (status IN ('held', 'paid'))
);
CREATE TABLE logline (
	id BIGINT NOT NULL, 
	kind VARCHAR(8), 
	data JSON, 
	PRIMARY KEY (id)
);
BEGIN;
INSERT INTO alembic_version (version_num) VALUES ('010') RETURNING version_num;
COMMIT;
PRAGMA foreign_keys=ON;

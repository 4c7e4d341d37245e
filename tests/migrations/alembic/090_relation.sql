PRAGMA foreign_keys=OFF;
CREATE TABLE _alembic_tmp_booking (
	id INTEGER NOT NULL, 
	person_id INTEGER NOT NULL, 
	status VARCHAR(4) NOT NULL, 
	cost FLOAT DEFAULT '0' NOT NULL, 
	venue_id INTEGER, 
	PRIMARY KEY (id), 
	CONSTRAINT fk_booking_person FOREIGN KEY(person_id) REFERENCES person (id) ON DELETE CASCADE, 
	CONSTRAINT ck_status CHECK (status IN ('held', 'paid')), 
	CONSTRAINT fk_booking_venue FOREIGN KEY(venue_id) REFERENCES venue (id) ON DELETE SET NULL
);
BEGIN;
INSERT INTO _alembic_tmp_booking (id, person_id, status, cost) SELECT booking.id, booking.person_id, booking.status, booking.cost 
FROM booking;
DROP TABLE booking;
ALTER TABLE _alembic_tmp_booking RENAME TO booking;
UPDATE alembic_version SET version_num='090' WHERE alembic_version.version_num = '080';
COMMIT;
PRAGMA foreign_keys=ON;

PRAGMA foreign_keys=OFF;
CREATE TABLE seat (
	booking_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	play_id INTEGER NOT NULL, 
	"row" VARCHAR(3) DEFAULT 'A', 
	PRIMARY KEY (booking_id, number), 
	CONSTRAINT fk_seat_booking FOREIGN KEY(booking_id) REFERENCES booking (id) ON DELETE CASCADE, 
	CONSTRAINT fk_seat_play FOREIGN KEY(play_id) REFERENCES play (id) ON DELETE RESTRICT
);
BEGIN;
UPDATE alembic_version SET version_num='020' WHERE alembic_version.version_num = '010';
COMMIT;
PRAGMA foreign_keys=ON;

BEGIN;

-- Running upgrade 020 -> 030

ALTER TABLE play ADD COLUMN minutes INTEGER DEFAULT '90' NOT NULL;

ALTER TABLE booking ADD COLUMN note TEXT;

CREATE INDEX ix_play_short ON play (minutes) WHERE minutes < 100;

UPDATE booking SET note = 'it''s; ' || status WHERE id = 41;

INSERT INTO genre (code, label) VALUES ('farc', 'Farce');

UPDATE alembic_version SET version_num='030' WHERE alembic_version.version_num = '020';

COMMIT;


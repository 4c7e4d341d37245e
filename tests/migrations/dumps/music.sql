-- A record shop: {n} tracks and what belongs to them, each with a text of {w} letters. {p} begins each name.
CREATE TABLE {p}artist (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, name NVARCHAR(120) COLLATE NOCASE UNIQUE);
CREATE TABLE {p}album (id INTEGER NOT NULL, title NVARCHAR(160) NOT NULL, artist INTEGER NOT NULL, cover BLOB,
    CONSTRAINT {p}pk_album PRIMARY KEY (id),
    FOREIGN KEY (artist) REFERENCES {p}artist (id) ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE {p}style (code TEXT NOT NULL PRIMARY KEY, label TEXT) WITHOUT ROWID;
CREATE TABLE {p}track (id INTEGER PRIMARY KEY, title TEXT NOT NULL, album INTEGER REFERENCES {p}album, style TEXT REFERENCES {p}style (code),
    seconds REAL CHECK (seconds > 0), price NUMERIC(10,2) DEFAULT 0.99, lyrics TEXT, remix_of INTEGER REFERENCES {p}track (id),
    minutes AS (round(seconds / 60, 3)) STORED, shout TEXT AS (upper(title)));
CREATE TABLE {p}playlist (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT DEFAULT 'it''s; "new"');
CREATE TABLE {p}playlist_track (playlist INTEGER NOT NULL REFERENCES {p}playlist ON DELETE CASCADE, track INTEGER NOT NULL REFERENCES {p}track (id) ON DELETE RESTRICT,
    PRIMARY KEY (playlist, track));
CREATE TABLE {p}employee (id INTEGER PRIMARY KEY, name TEXT, boss INTEGER REFERENCES {p}employee (id) ON DELETE SET NULL, born DATETIME);
CREATE TABLE {p}customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, rep INTEGER, favourite INTEGER,
    FOREIGN KEY (rep) REFERENCES {p}employee (id), FOREIGN KEY (favourite) REFERENCES {p}invoice (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE {p}invoice (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES {p}customer (id), day TEXT NOT NULL, total NUMERIC);
CREATE TABLE {p}invoice_line (id INTEGER PRIMARY KEY, invoice INTEGER NOT NULL, track INTEGER NOT NULL, price REAL, count INT,
    FOREIGN KEY (invoice) REFERENCES {p}invoice (id) ON DELETE CASCADE, FOREIGN KEY (track) REFERENCES {p}track (id));

WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n} / 20 + 2)
INSERT INTO {p}artist SELECT i * 3, 'Artist ' || i || CASE i % 3 WHEN 0 THEN ' & the "Quotes"' WHEN 1 THEN '''s; band' ELSE ' Žluť' END FROM n;
INSERT INTO {p}artist VALUES (900000000, 'gone');
DELETE FROM {p}artist WHERE id = 900000000;
INSERT INTO {p}album SELECT id / 3, 'Title' || char(10) || 'and second line ' || id, id, CASE id % 2 WHEN 0 THEN zeroblob(5) ELSE unhex(printf('%08x', id * 7919)) END FROM {p}artist;
INSERT INTO {p}style VALUES ('jz', 'Jazz'), ('rk', 'Rock' || char(13, 10) || 'and roll' || char(9)), ('', NULL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n})
INSERT INTO {p}track (id, title, album, style, seconds, price, lyrics, remix_of)
SELECT i, 'Track -- no. ' || i || CASE i % 7 WHEN 0 THEN char(10) || 'live \n' WHEN 1 THEN ' /* 🎵 */' ELSE '' END, i / 20 + 1, substr('jzrk', i % 3 * 2 + 1, 2),
    CASE i % 11 WHEN 0 THEN 9e999 WHEN 1 THEN 1e-300 ELSE i * 0.1 END, CASE i % 5 WHEN 0 THEN NULL ELSE i % 5 + 0.49 END, 'la' || printf('%*s', {w}, i), CASE i % 4 WHEN 0 THEN {n} + 1 - i ELSE NULL END FROM n;
INSERT INTO {p}playlist (id, name) VALUES (1, 'all'), (5, NULL), (9, 'every seventh' || char(10));
INSERT INTO {p}playlist_track SELECT 1, id FROM {p}track UNION ALL SELECT 9, id FROM {p}track WHERE id % 7 = 0;
INSERT INTO {p}employee VALUES (1, 'Ann', 2, '1960-01-01 00:00:00'), (2, 'Bea', NULL, NULL), (3, 'Cid', 1, '1999-09-09');
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {n} / 10 + 1)
INSERT INTO {p}customer SELECT i, 'Customer ' || i, i || '@example.org', i % 3 + 1, i FROM n;
INSERT INTO {p}invoice SELECT id, id, date('2020-01-01', '+' || id || ' days'), id * 1.25 FROM {p}customer;
COMMIT;
INSERT INTO {p}invoice_line SELECT id, id % ({n} / 10 + 1) + 1, id, price, id % 4 FROM {p}track;

CREATE INDEX {p}track_album ON {p}track (album, title COLLATE NOCASE DESC);
CREATE UNIQUE INDEX {p}customer_email ON {p}customer (lower(email)) WHERE email <> '';
CREATE VIEW {p}sales AS SELECT c.name, count(*) AS lines, sum(l.count) AS pieces FROM {p}customer c
    JOIN {p}invoice i ON i.customer = c.id JOIN {p}invoice_line l ON l.invoice = i.id GROUP BY c.id;
CREATE VIEW {p}top AS SELECT * FROM {p}sales WHERE pieces > 2; -- a view of a view
CREATE TABLE {p}log (at TEXT DEFAULT 'never', what TEXT);
CREATE TRIGGER {p}priced AFTER UPDATE OF price ON {p}track WHEN new.price IS NOT old.price BEGIN
    INSERT INTO {p}log VALUES ('then', CASE WHEN new.price > 1 THEN 'up; dear' ELSE 'down' END);
    UPDATE {p}invoice_line SET price = new.price WHERE track = new.id;
END;
CREATE TRIGGER {p}sold INSTEAD OF INSERT ON {p}top BEGIN SELECT RAISE(ABORT, 'it''s a view;'); END;
UPDATE {p}track SET price = 5 WHERE id = 3;

UPDATE booking SET venue_id = 2 WHERE id = 42;

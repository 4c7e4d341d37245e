PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_readings` (
	`id` integer PRIMARY KEY NOT NULL,
	`sensor` text DEFAULT 'none',
	`value` real DEFAULT 0 NOT NULL
);
--> statement-breakpoint
INSERT INTO `__new_readings`("id", "sensor", "value") SELECT "id", "sensor", "value" FROM `readings`;--> statement-breakpoint
DROP TABLE `readings`;--> statement-breakpoint
ALTER TABLE `__new_readings` RENAME TO `readings`;--> statement-breakpoint
PRAGMA foreign_keys=ON;--> statement-breakpoint
ALTER TABLE `beds` ADD `grower_id` integer REFERENCES growers(id);--> statement-breakpoint
ALTER TABLE `seeds` ADD `sown` integer;--> statement-breakpoint
ALTER TABLE `seeds` ADD `rarity` text DEFAULT 'common' NOT NULL;
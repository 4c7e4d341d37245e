PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_measurements` (
	`id` text PRIMARY KEY NOT NULL,
	`sensor` text DEFAULT 'none',
	`value` real DEFAULT 0 NOT NULL
);
--> statement-breakpoint
INSERT INTO `__new_measurements`("id", "sensor", "value") SELECT "id", "sensor", "value" FROM `measurements`;--> statement-breakpoint
DROP TABLE `measurements`;--> statement-breakpoint
ALTER TABLE `__new_measurements` RENAME TO `measurements`;--> statement-breakpoint
PRAGMA foreign_keys=ON;
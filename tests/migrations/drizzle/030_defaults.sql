PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_growers` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL,
	`mentor_id` integer,
	`mode` text DEFAULT 'markup' NOT NULL,
	`active` integer DEFAULT true NOT NULL,
	FOREIGN KEY (`mentor_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE set null
);
--> statement-breakpoint
INSERT INTO `__new_growers`("id", "name", "mentor_id", "mode", "active") SELECT "id", "name", "mentor_id", "mode", "active" FROM `growers`;--> statement-breakpoint
DROP TABLE `growers`;--> statement-breakpoint
ALTER TABLE `__new_growers` RENAME TO `growers`;--> statement-breakpoint
PRAGMA foreign_keys=ON;--> statement-breakpoint
CREATE UNIQUE INDEX `growers_active_name` ON `growers` (`name`) WHERE "growers"."active" = 1;--> statement-breakpoint
CREATE TABLE `__new_orders` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`grower_id` integer,
	`status` text DEFAULT 'draft' NOT NULL,
	FOREIGN KEY (`grower_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE restrict
);
--> statement-breakpoint
INSERT INTO `__new_orders`("id", "grower_id", "status") SELECT "id", "grower_id", "status" FROM `orders`;--> statement-breakpoint
DROP TABLE `orders`;--> statement-breakpoint
ALTER TABLE `__new_orders` RENAME TO `orders`;--> statement-breakpoint
CREATE TABLE `__new_readings` (
	`id` integer PRIMARY KEY NOT NULL,
	`sensor` text,
	`value` real DEFAULT 0 NOT NULL
);
--> statement-breakpoint
INSERT INTO `__new_readings`("id", "sensor", "value") SELECT "id", "sensor", "value" FROM `readings`;--> statement-breakpoint
DROP TABLE `readings`;--> statement-breakpoint
ALTER TABLE `__new_readings` RENAME TO `readings`;--> statement-breakpoint
ALTER TABLE `seeds` DROP COLUMN `photo`;
PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_orders` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`grower_id` integer,
	`status` text DEFAULT 'draft' NOT NULL,
	FOREIGN KEY (`grower_id`) REFERENCES `growers`(`id`) ON UPDATE cascade ON DELETE set null
);
--> statement-breakpoint
INSERT INTO `__new_orders`("id", "grower_id", "status") SELECT "id", "grower_id", "status" FROM `orders`;--> statement-breakpoint
DROP TABLE `orders`;--> statement-breakpoint
ALTER TABLE `__new_orders` RENAME TO `orders`;--> statement-breakpoint
PRAGMA foreign_keys=ON;--> statement-breakpoint
CREATE TABLE `__new_seeds` (
	`id` integer PRIMARY KEY NOT NULL,
	`grower_id` integer,
	`title` text NOT NULL,
	`sown` integer,
	`rarity` text DEFAULT 'common' NOT NULL,
	`grams` text DEFAULT '2' NOT NULL,
	FOREIGN KEY (`grower_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE set null,
	CONSTRAINT "seeds_rarity" CHECK("__new_seeds"."rarity" <> '')
);
--> statement-breakpoint
INSERT INTO `__new_seeds`("id", "grower_id", "title", "sown", "rarity", "grams") SELECT "id", "grower_id", "title", "sown", "rarity", "grams" FROM `seeds`;--> statement-breakpoint
DROP TABLE `seeds`;--> statement-breakpoint
ALTER TABLE `__new_seeds` RENAME TO `seeds`;--> statement-breakpoint
CREATE INDEX `seeds_grower` ON `seeds` (`grower_id`);
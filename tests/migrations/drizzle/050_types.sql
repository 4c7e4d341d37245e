PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_seeds` (
	`id` integer PRIMARY KEY NOT NULL,
	`grower_id` integer NOT NULL,
	`label` text NOT NULL,
	`sown` integer,
	`rarity` text DEFAULT 'common' NOT NULL,
	`grams` text DEFAULT '2' NOT NULL,
	FOREIGN KEY (`grower_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE cascade,
	CONSTRAINT "seeds_rarity" CHECK("__new_seeds"."rarity" <> '')
);
--> statement-breakpoint
INSERT INTO `__new_seeds`("id", "grower_id", "label", "sown", "rarity", "grams") SELECT "id", "grower_id", "label", "sown", "rarity", "grams" FROM `seeds`;--> statement-breakpoint
DROP TABLE `seeds`;--> statement-breakpoint
ALTER TABLE `__new_seeds` RENAME TO `seeds`;--> statement-breakpoint
PRAGMA foreign_keys=ON;--> statement-breakpoint
CREATE INDEX `seeds_grower` ON `seeds` (`grower_id`);--> statement-breakpoint
CREATE TABLE `__new_lines` (
	`order_id` integer NOT NULL,
	`number` integer NOT NULL,
	`seed_id` integer,
	`packs` real DEFAULT 0.5,
	PRIMARY KEY(`order_id`, `number`),
	FOREIGN KEY (`order_id`) REFERENCES `orders`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`seed_id`) REFERENCES `seeds`(`id`) ON UPDATE no action ON DELETE set null
);
--> statement-breakpoint
INSERT INTO `__new_lines`("order_id", "number", "seed_id", "packs") SELECT "order_id", "number", "seed_id", "packs" FROM `lines`;--> statement-breakpoint
DROP TABLE `lines`;--> statement-breakpoint
ALTER TABLE `__new_lines` RENAME TO `lines`;--> statement-breakpoint
CREATE UNIQUE INDEX `beds_width_unique` ON `beds` (`width`);
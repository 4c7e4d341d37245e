CREATE TABLE `beds` (
	`code` text PRIMARY KEY NOT NULL,
	`width` integer NOT NULL
);
--> statement-breakpoint
CREATE TABLE `growers` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`name` text NOT NULL,
	`mentor_id` integer,
	`mode` text DEFAULT 'preview' NOT NULL,
	`active` integer DEFAULT true NOT NULL,
	FOREIGN KEY (`mentor_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE set null
);
--> statement-breakpoint
CREATE UNIQUE INDEX `growers_active_name` ON `growers` (`name`) WHERE "growers"."active" = 1;--> statement-breakpoint
CREATE TABLE `orders` (
	`id` integer PRIMARY KEY AUTOINCREMENT NOT NULL,
	`grower_id` integer,
	`status` text DEFAULT 'open' NOT NULL,
	FOREIGN KEY (`grower_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE restrict
);
--> statement-breakpoint
CREATE TABLE `plantings` (
	`seed_id` integer NOT NULL,
	`bed_code` text NOT NULL,
	`at` text DEFAULT (CURRENT_TIMESTAMP) NOT NULL,
	PRIMARY KEY(`seed_id`, `bed_code`),
	FOREIGN KEY (`seed_id`) REFERENCES `seeds`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`bed_code`) REFERENCES `beds`(`code`) ON UPDATE cascade ON DELETE cascade
);
--> statement-breakpoint
CREATE TABLE `readings` (
	`id` integer PRIMARY KEY NOT NULL,
	`sensor` text,
	`value` real
);
--> statement-breakpoint
CREATE TABLE `seeds` (
	`id` integer PRIMARY KEY NOT NULL,
	`grower_id` integer NOT NULL,
	`label` text NOT NULL,
	`grams` real DEFAULT 1.5,
	`photo` blob,
	FOREIGN KEY (`grower_id`) REFERENCES `growers`(`id`) ON UPDATE no action ON DELETE cascade,
	CONSTRAINT "seeds_grams" CHECK("seeds"."grams" > 0)
);
--> statement-breakpoint
CREATE INDEX `seeds_grower` ON `seeds` (`grower_id`);
CREATE TABLE `lines` (
	`order_id` integer NOT NULL,
	`number` integer NOT NULL,
	`seed_id` integer,
	`packs` integer DEFAULT 1 NOT NULL,
	PRIMARY KEY(`order_id`, `number`),
	FOREIGN KEY (`order_id`) REFERENCES `orders`(`id`) ON UPDATE no action ON DELETE cascade,
	FOREIGN KEY (`seed_id`) REFERENCES `seeds`(`id`) ON UPDATE no action ON DELETE set null
);

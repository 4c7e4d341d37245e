ALTER TABLE `readings` RENAME TO `measurements`;--> statement-breakpoint
ALTER TABLE `seeds` RENAME COLUMN "label" TO "title";
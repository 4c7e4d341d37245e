-- Renames: written by hand, as Prisma's documentation says. The engine drops and adds instead.
ALTER TABLE "Visit" RENAME TO "visits";
ALTER TABLE "Order" RENAME COLUMN "state" TO "progress";

import { sql } from "drizzle-orm";
import type { AnySQLiteColumn } from "drizzle-orm/sqlite-core";
import { blob, check, index, integer, primaryKey, real, sqliteTable, text, uniqueIndex } from "drizzle-orm/sqlite-core";

export const growers = sqliteTable(
    "growers",
    {
        id: integer("id").primaryKey({ autoIncrement: true }),
        name: text("name").notNull(),
        mentorId: integer("mentor_id").references((): AnySQLiteColumn => growers.id, { onDelete: "set null" }),
        mode: text("mode").notNull().default("markup"),
        active: integer("active", { mode: "boolean" }).notNull().default(true),
    },
    (t) => [uniqueIndex("growers_active_name").on(t.name).where(sql`${t.active} = 1`)],
);

export const seeds = sqliteTable(
    "seeds",
    {
        id: integer("id").primaryKey(),
        growerId: integer("grower_id").references(() => growers.id, { onDelete: "set null" }),
        label: text("title").notNull(),
        sown: integer("sown", { mode: "timestamp" }),
        rarity: text("rarity").notNull().default("common"),
        grams: text("grams").notNull().default("2"),
    },
    (t) => [index("seeds_grower").on(t.growerId), check("seeds_rarity", sql`${t.rarity} <> ''`)],
);

export const beds = sqliteTable("beds", {
    code: text("code").primaryKey().notNull(),
    sunny: integer("sunny"),
    width: integer("width").notNull().unique(),
    growerId: integer("grower_id").references(() => growers.id, { onDelete: "cascade" }),
});

export const plantings = sqliteTable(
    "plantings",
    {
        seedId: integer("seed_id")
            .notNull()
            .references(() => seeds.id, { onDelete: "cascade" }),
        bedCode: text("bed_code")
            .notNull()
            .references(() => beds.code, { onDelete: "cascade", onUpdate: "cascade" }),
        at: text("at").notNull().default(sql`(CURRENT_TIMESTAMP)`),
    },
    (t) => [primaryKey({ columns: [t.seedId, t.bedCode] })],
);

export const orders = sqliteTable("orders", {
    id: integer("id").primaryKey({ autoIncrement: true }),
    growerId: integer("grower_id").references(() => growers.id, { onDelete: "set null", onUpdate: "cascade" }),
    status: text("status", { enum: ["open", "paid"] }).notNull().default("draft" as "open"),
});

export const lines = sqliteTable(
    "lines",
    {
        orderId: integer("order_id")
            .notNull()
            .references(() => orders.id, { onDelete: "cascade" }),
        number: integer("number").notNull(),
        seedId: integer("seed_id").references(() => seeds.id, { onDelete: "set null" }),
        packs: real("packs").default(0.5),
    },
    (t) => [primaryKey({ columns: [t.orderId, t.number] })],
);

export const readings = sqliteTable("measurements", {
    id: text("id").primaryKey().notNull(),
    sensor: text("sensor").default("none"),
    value: real("value").notNull().default(0),
});

// Writes schemas/NNN_name.prisma's NNN_name.sql with Prisma's own schema engine, which is asked for what
// `prisma migrate dev --create-only` asks it for: the difference of two data models, as a script.
//
//   npm install @prisma/schema-engine-wasm@8.1.0-2.59be4fda12412a79eeb9c2ae727b6aa723593323 \
//       @prisma/adapter-better-sqlite3@7 better-sqlite3@12
//   node make.mjs      in the folder with node_modules; the files come into the folder of this script
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const here = import.meta.dirname;
const require = createRequire(join(process.cwd(), "package.json"));
const { PrismaBetterSqlite3 } = await import(require.resolve("@prisma/adapter-better-sqlite3"));
const { bindMigrationAwareSqlAdapterFactory } = await import(require.resolve("@prisma/driver-adapter-utils"));

const background = await import(require.resolve("@prisma/schema-engine-wasm/schema_engine_bg"));
const bytes = readFileSync(require.resolve("@prisma/schema-engine-wasm").replace(/\.js$/, "_bg.wasm"));
const { instance } = await WebAssembly.instantiate(bytes, { "./schema_engine_bg.js": background });
background.__wbg_set_wasm(instance.exports);
instance.exports.__wbindgen_start();

const adapter = bindMigrationAwareSqlAdapterFactory(new PrismaBetterSqlite3({ url: ":memory:" }));
// Renames are written by hand: the engine drops and adds.
const byHand = new Set(["070_renames.prisma"]);
const steps = readdirSync(join(here, "schemas")).sort();
let from = { tag: "empty" };
for (const name of steps) {
    const content = readFileSync(join(here, "schemas", name), "utf8");
    const files = [{ path: "schema.prisma", content }];
    const engine = await background.SchemaEngine.new({ datamodels: [["schema.prisma", content]] }, () => {}, adapter);
    const to = { tag: "schemaDatamodel", files };
    const filters = { externalTables: [], externalEnums: [] };
    const { stdout } = await engine.diff({ from, to, script: true, exitCode: null, shadowDatabaseUrl: null, filters });
    if (!byHand.has(name)) writeFileSync(join(here, name.replace(".prisma", ".sql")), stdout);
    from = to;
}

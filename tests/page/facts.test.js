// The types of what arrives are those that docs/api.md describes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (path) => readFileSync(new URL(`../../${path}`, import.meta.url), "utf-8");
const facts = read("hive/page/facts.d.ts"), contract = read("docs/api.md");

/** The fields of an interface, and of those that it extends. */
function fieldsOf(name) {
  const [, parents, body] = new RegExp(`interface ${name}(?: extends ([^{]*))? {\n([^]*?)\n}`)
    .exec(facts);
  const inherited = (parents ?? "").split(", ").map((parent) => parent.trim())
    .filter((parent) => parent && !parent.startsWith("Numbered<")).flatMap(fieldsOf);
  return [...inherited, ...[...body.matchAll(/^ {2}(\w+)\??:/gm)].map(([, field]) => field)];
}

/** The names in the first column of a table, which follows this line. */
function documented(line) {
  const table = contract.slice(contract.indexOf(line)).split("\n| field | |\n|---|---|\n")[1];
  const rows = table.split("\n\n")[0].split("\n");
  return rows.flatMap((row) => [...row.split("|")[1].matchAll(/`(\w+)`/g)].map(([, name]) => name));
}

const sorted = (names) => [...new Set(names)].sort();

test("the state has the fields that are documented", () => {
  assert.deepEqual(sorted(fieldsOf("Run")), sorted(documented("## /api/state")));
});

test("a peer has the fields that are documented", () => {
  assert.deepEqual(sorted(fieldsOf("Peer")), sorted(documented("A peer:")));
});

test("there is a type for every event, with the documented fields", () => {
  const rows = [...contract.matchAll(/^\| `(\w+)` \| (.*) \|$/gm)];
  const types = [...facts.matchAll(/interface (\w+) extends Numbered<"(\w+)">/g)];
  assert.ok(types.length > 10);
  for (const [, name, type] of types) {
    const row = rows.filter(([, event]) => event === type).at(-1); // events are the last table
    assert.ok(row, `${type} is not documented`);
    if (type === "state") continue; // the fields of /api/state
    for (const field of fieldsOf(name)) {
      if (field === "snapshots") continue; // only a single machine's
      assert.ok(row[2].includes(`\`${field}\``), `${type} has no documented ${field}`);
    }
  }
});

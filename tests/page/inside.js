// node inside.js FILE TEXT...: of each text, as JSON, the chance of each character after the first,
// how much of the text was in sight then, and the attention of the last character, from a file of
// weights. tests/dashboard/test_page_in_node.py compares them with PyTorch's.
import { readFileSync } from "node:fs";

import { Transformer, readAlong } from "../../hive/page/chat/model.js";
import { parse } from "../../hive/page/chat/weights.js";

const [file, ...texts] = process.argv.slice(2);
const { buffer, byteOffset, length } = readFileSync(file);
const weights = parse(buffer.slice(byteOffset, byteOffset + length));
console.log(JSON.stringify(texts.map((text) => {
  const model = new Transformer(weights);
  const ids = Array.from(text).map((character) => weights.vocabulary.indexOf(character));
  const steps = [...readAlong(model, ids)].filter((step) => step);
  return {
    chances: steps.map(({ id, before }) => before[id]), seen: steps.map(({ seen }) => seen),
    attention: model.attention().map((heads) => heads.map((row) => [...row])) };
})));

// node logits.js FILE PROMPT...: the scores of the next character after each prompt, as JSON, from
// a file of weights. tests/dashboard/test_page_in_node.py compares them with PyTorch's.
import { readFileSync } from "node:fs";

import { Transformer } from "../../hive/page/chat/model.js";
import { parse } from "../../hive/page/chat/weights.js";

const [file, ...prompts] = process.argv.slice(2);
const { buffer, byteOffset, length } = readFileSync(file);
const weights = parse(buffer.slice(byteOffset, byteOffset + length));
const model = new Transformer(weights);
console.log(JSON.stringify(prompts.map((prompt) => {
  model.length = 0;
  for (const character of prompt) model.read(weights.vocabulary.indexOf(character));
  return [...model.logits()];
})));

import js from "@eslint/js";

const NODE = ["process", "console", "URL", "TextEncoder", "setTimeout", "clearTimeout",
  "structuredClone"];

export default [
  { ignores: ["**/.venv/", "build/", "runs/"] },
  js.configs.recommended,
  { files: ["hive/**/*.js"], rules: { "no-undef": "off" } }, // tsc knows the browser's names
  {
    files: ["tests/page/**/*.js"],
    languageOptions: { globals: Object.fromEntries(NODE.map((name) => [name, "readonly"])) },
  },
  {
    rules: {
      "eqeqeq": ["error", "always", { null: "ignore" }], // == null: null or undefined
      "no-shadow": "error",
      "no-unused-vars": ["error", { ignoreRestSiblings: true }],
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
    },
  },
];

import js from "@eslint/js";

export default [
  js.configs.recommended,
  { files: ["hive/**/*.js"], rules: { "no-undef": "off" } }, // tsc knows the browser's names
  {
    files: ["tests/page/*.js"],
    languageOptions: { globals: { process: "readonly", console: "readonly", URL: "readonly" } },
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
  { ignores: ["**/.venv/", "build/", "runs/"] },
];

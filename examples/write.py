"""Let a trained network write: python -m examples.write runs/mine "Once upon a time" """
import sys

from gltch_2_7m import GltchError, generate, generate_batch, known_part, load

try:
    model, vocabulary = load(sys.argv[1] if len(sys.argv) > 1 else None)  # None: the newest run
except GltchError as error:  # one sentence that says what is wrong
    sys.exit(f"error: {error}")
prompt = known_part(vocabulary, sys.argv[2] if len(sys.argv) > 2 else "")

print(prompt, end="")
for piece in generate(model, vocabulary, prompt, length=200, temperature=0.8, seed=1):
    print(piece, end="", flush=True)  # as it is written

for text in generate_batch(model, vocabulary, prompt, 3, length=60, temperature=1.0, seed=1):
    print("\n---\n" + prompt + text, end="")  # three at once
print()

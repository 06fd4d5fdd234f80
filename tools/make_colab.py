#!/usr/bin/env python3
"""Make gltch_2_7m_colab.py and gltch_2_7m_colab.ipynb out of gltch_2_7m.py.

Both hold the same cells: the sections of gltch_2_7m.py word for word, without its command line, and
the few cells below that train a network and let it write.

    python tools/make_colab.py            write both files
    python tools/make_colab.py --check    exit with 1 if they are not what would be written
"""
import ast
import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, NAME = "gltch_2_7m.py", "gltch_2_7m_colab"
WIDTH = 98  # of the explanations; with "# " before it a line has 100 characters
LONGEST = 60  # lines; functions share a cell up to here
BANNER = re.compile(r"^# =+\n# \d+\. (.+)\n((?:#.*\n)*?)# =+\n", re.MULTILINE)

OPENING = """\
# {title}

{summary} This notebook is all of it: read it from top to bottom, and in the end it has trained a
network and lets it write.

**Runtime > Change runtime type > T4 GPU**, then run the cells in order (Runtime > Run all).

`tools/make_colab.py` writes this notebook from `{source}`: change those two, not this."""

SETTINGS = ("""\
## Settings

What to change before a run. A text of your own: put it into the Files panel on the left, and its
name into the list, as in `DATA = ["my_text.txt"]`.""", """\
STEPS = None  # None: the full run on a GPU, what fits in ten minutes on a CPU
DATA = []  # your own text files; empty: Tiny Shakespeare""")

ENDING = [("""\
## The text to learn from

All the parts are there; from here on they are put to use. First the text: where it comes from, how
long it is, its different characters, and how it begins.""", """\
corpus = load_corpus(DATA)
print(f"{corpus.source}: {len(corpus.ids):,} characters, {len(corpus.vocabulary)} different:")
print(repr(corpus.vocabulary.characters))
print()
print(corpus.vocabulary.decode(corpus.ids[:300].tolist()))"""), ("""\
## The network, part by part

The vocabulary of the text decides how many characters the network can tell apart.""", """\
config = Config(vocab_size=len(corpus.vocabulary))
parts = GLTCH(config).parameter_table()
for part, shape, count in [*parts, ("total", "", sum(count for _, _, count in parts))]:
    print(f"{part:31} {shape:22} {count:>12,}")"""), ("""\
## Train it

A line every ten seconds says how far it is. The loss says how surprised the network is by each next
character: lower is better, and `val` is measured on text that it never trains on. The stop button
ends the run early; the cells below then work with what was learned until there.""", """\
recipe = TrainConfig(steps=STEPS)
result = train(config, recipe, corpus)
print(f"{result.step} steps, validation loss {result.val_loss:.4f} nats per character")"""), ("""\
## How the loss fell

Both curves fall together while the network learns what holds for any text of this kind. When the
validation curve turns up again, it has begun to learn its own text by heart.""", """\
plot = result.folder / "loss.svg"
if "get_ipython" in globals():  # in a notebook
    from IPython.display import SVG, display
    display(SVG(filename=str(plot)))
else:
    print(f"The loss is drawn in {plot}")"""), ("""\
## Let it write

One character after the other, each drawn from what the network thinks likely to come next.""", """\
def write(prompt, length=500, **settings):
    \"\"\"Print a prompt, less the characters that the text does not have, and what follows it.\"\"\"
    prompt = "".join(c for c in prompt if c in result.vocabulary.number)
    print(prompt, end="")
    for piece in generate(result.model, result.vocabulary, prompt, length, **settings):
        print(piece, end="", flush=True)
    print()


write("ROMEO:", seed=1)"""), ("""\
## A prompt of your own

Change the two values and run the cell again, as often as you like. A low temperature keeps to what
is likely, a high one dares more.""", """\
PROMPT = "The king said"
TEMPERATURE = 0.8  # 0: always the likeliest character

write(PROMPT, temperature=TEMPERATURE)"""), ("""\
## Keep it

Colab forgets its files when it closes. The run is a folder under `runs/` in the Files panel on the
left; `best.pt` in it is the network. Download it there (right click), or run this in a new cell:

```python
from google.colab import files
files.download(str(result.folder / "best.pt"))
```

On your own computer `python gltch_2_7m.py sample --checkpoint best.pt` lets it write, and here
`train(resume=str(result.folder))` goes on with a run that was stopped.""", "")]


def sentence(text):
    """The first sentence, on one line."""
    flat = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", flat)[0]


def sections(source):
    """(title, prose, code) of every section behind the imports that is not about a command line."""
    parts = BANNER.split(source)[1:]
    for title, prose, code in zip(parts[0::3], parts[1::3], parts[2::3]):
        if "command line" not in title.lower():
            yield title, re.sub(r"^# ?", "", prose, flags=re.MULTILINE).strip(), code.strip()


def imports(source, kept):
    """The imports at the top of the file that the kept code has a use for, __future__ first."""
    top = BANNER.split(source)[0]
    used = {node.id for node in ast.walk(ast.parse(kept)) if isinstance(node, ast.Name)}
    lines = []
    for node in ast.parse(top).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name + (f" as {a.asname}" if a.asname else "") for a in node.names
                     if getattr(node, "module", "") == "__future__"
                     or (a.asname or a.name.split(".")[0]) in used]
            before = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            line = f"{before}import {', '.join(names)}"
            lines += textwrap.wrap(line, 100 - 2) if names else []
    return "\n".join(lines)


def explain(pieces):
    """A sentence for every class and function that has a docstring, under its name."""
    nodes = [node for node in ast.parse("\n\n\n".join(pieces)).body
             if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)]
    return [textwrap.fill(f"**{node.name}.** {sentence(ast.get_docstring(node))}", WIDTH)
            for node in nodes]

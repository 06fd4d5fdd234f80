#!/usr/bin/env python3
"""Make gltch_2_7m_colab.py and gltch_2_7m_colab.ipynb out of gltch_2_7m.py.

Both hold the same cells: the sections of gltch_2_7m.py word for word, without its command line, and
the few cells below that train a network and let it write.

    python tools/make_colab.py            write both files
    python tools/make_colab.py --check    exit with 1 if they are not what would be written
"""
import ast
import json
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE, NAME = "gltch_2_7m.py", "gltch_2_7m_colab"
WIDTH = 98  # of the explanations; with "# " before it a line has 100 characters
LONGEST = 50  # lines: short functions share a cell up to here
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
    return re.split(r"(?<=[.!?])\s", " ".join(text.split("\n\n")[0].split()))[0]


def sections(source):
    """Title, prose and code of every section, except those about the command line."""
    parts = BANNER.split(source)[1:]
    for title, prose, code in zip(parts[0::3], parts[1::3], parts[2::3]):
        if "command line" not in title.lower():
            yield title, re.sub("^# ?", "", prose, flags=re.MULTILINE).strip(), code.strip()


def imports(source, kept):
    """The imports at the top of the file that the kept code has a use for."""
    used = {node.id for node in ast.walk(ast.parse(kept)) if isinstance(node, ast.Name)}
    lines = []
    for node in ast.parse(BANNER.split(source)[0]).body:
        if isinstance(node, ast.Import):
            lines += [f"import {name}" for name, called in names(node) if called in used]
        elif isinstance(node, ast.ImportFrom):
            wanted = [name for name, called in names(node)
                      if called in used or node.module == "__future__"]
            line = f"from {node.module} import {', '.join(wanted)}"
            if len(line) > 100:
                line = line.replace("import ", "import (\n    ", 1) + ")"
            lines += [line] if wanted else []
    return "\n".join(lines)


def names(node):
    """What an import statement imports, and what each is called from then on."""
    return [(a.name + (f" as {a.asname}" if a.asname else ""), a.asname or a.name.split(".")[0])
            for a in node.names]


def explain(code):
    """A sentence for every class and function with a docstring, under its name."""
    nodes = [node for node in ast.parse(code).body
             if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)]
    return [textwrap.fill(f"**{node.name}.** {sentence(ast.get_docstring(node))}", WIDTH)
            for node in nodes]


def cut(code):
    """A section in cells: a class has one to itself, short functions share one, and what has no
    docstring stays with what it follows."""
    cells = []
    for piece in code.split("\n\n\n"):
        together = cells[-1] + "\n\n\n" + piece if cells else piece
        apart = re.search("^class ", together, re.MULTILINE) or together.count("\n") >= LONGEST
        if cells and not (apart and explain(piece)):
            cells[-1] = together
        else:
            cells.append(piece)
    return cells


def make_cells(source):
    """The whole notebook as (explanation, code) pairs."""
    kept = list(sections(source))
    code = "\n\n\n".join(code for _, _, code in kept)
    if not kept or "sys.argv" in code:
        sys.exit(f"{SOURCE} must have banner sections, and read sys.argv only in those whose title "
                 "says 'command line'.")
    about = ast.get_docstring(ast.parse(source)).split("\n\n")
    opening = OPENING.format(title=about[0].rstrip("."), source=SOURCE, summary=sentence(about[1]))
    cells = [(opening, imports(source, code)), SETTINGS]
    for title, prose, code in kept:
        for i, part in enumerate(cut(code)):
            heading = [] if i else [f"## {title}", *filter(None, [prose])]
            cells.append(("\n\n".join(heading + explain(part)), part))
    return cells + ENDING


def as_script(cells):
    """The cells in the percent format, which Jupytext, VS Code and Spyder read."""
    blocks = []
    for text, code in cells:
        comment = "\n".join(f"# {line}".rstrip() for line in text.split("\n"))
        blocks += [f"# %% [markdown]\n{comment}"] + [f"# %%\n{code}"] * bool(code)
    return "\n\n".join(blocks) + "\n"


def as_notebook(cells):
    """The cells as a notebook without outputs, in nbformat 4.5."""
    out = []
    for text, code in cells:
        out.append({"cell_type": "markdown", "metadata": {}, "source": text})
        if code:
            out.append({"cell_type": "code", "execution_count": None, "metadata": {},
                        "outputs": [], "source": code})
    for i, cell in enumerate(out):
        cell["id"], cell["source"] = f"cell-{i:02}", cell["source"].splitlines(True)
    metadata = {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []},
                "kernelspec": {"display_name": "Python 3", "name": "python3"},
                "language_info": {"name": "python"}}
    book = {"cells": out, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main():
    cells = make_cells((ROOT / SOURCE).read_text(encoding="utf-8"))
    for suffix, text in ((".py", as_script(cells)), (".ipynb", as_notebook(cells))):
        path = ROOT / (NAME + suffix)
        if "--check" not in sys.argv[1:]:
            path.write_bytes(text.encode())
        elif not path.exists() or path.read_bytes() != text.encode():
            sys.exit(f"{path.name} is not what {SOURCE} gives: run python tools/make_colab.py")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Make gltch_2_7m_colab.py and gltch_2_7m_colab.ipynb out of gltch_2_7m.py.

Both hold the same cells: the sections of gltch_2_7m.py word for word, without its command line, and
the cells written here, which train a network and let it write.
"""
import argparse
import ast
import json
import re
import sys
from pathlib import Path
from textwrap import fill
from typing import Any, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
SOURCE, NAME = "gltch_2_7m.py", "gltch_2_7m_colab"
BANNER = re.compile(r"^# =+\n# \d+\. (.+)\n((?:#.*\n)*?)# =+\n", re.MULTILINE)
PART = re.compile(r"^# =+\n# +(PART .+)\n# =+\n", re.MULTILINE)  # of the file, before its imports
WIDTH = 98  # of an explanation: with "# " before it, a line has 100 characters
LONGEST = 50  # lines of a cell that takes in another function

Cell = Tuple[str, str]  # an explanation in Markdown, and the code that follows or ""

OPENING = """\
# {title}

{summary}
This notebook is all of it: read it from top to bottom, and it trains a network and lets it write.

**Runtime > Change runtime type > T4 GPU**, then run the cells in order (Runtime > Run all).

Written by `tools/make_colab.py` from `gltch_2_7m.py`: change those, not this."""

SETTINGS = ("""\
## Settings

What to change before a run. To learn from a text of your own, put it into the Files panel on the
left and its name into the list: `DATA = ["my_text.txt"]`.""", """\
STEPS = None  # None: the full run on a GPU, what fits in ten minutes on a CPU
DATA = []  # your own text files; empty: Tiny Shakespeare""")

ENDING = [("""\
## The text to learn from

All parts are there; from here on they are put to use. First the text: where it comes from, how
long it is, its different characters, how it begins.""", """\
corpus = load_corpus(DATA)
print(f"{corpus.source}: {len(corpus.ids):,} characters, {len(corpus.vocabulary)} different")
print(repr(corpus.vocabulary.characters))
print()
print(corpus.vocabulary.decode(corpus.ids[:300].tolist()))"""), ("""\
## The network, part by part

The vocabulary of the text decides how many characters the network can tell apart.""", """\
config = Config(vocab_size=len(corpus.vocabulary))
parts = parameter_table(GLTCH(config))
for part, shape, count in [*parts, ("total", "", sum(count for _, _, count in parts))]:
    print(f"{part:31} {shape:22} {count:>12,}")"""), ("""\
## Train it

A line every ten seconds says how far it is. The loss is how much each next character surprises
the network: lower is better, and `val` is measured on text it never trains on. The stop button
ends the run early; the cells below then work with what was learned until there.""", """\
recipe = usual_recipe(steps=STEPS)
result = train(config, recipe, corpus)
print(f"{result.step} steps, validation loss {result.val_loss:.4f} when last measured")"""), ("""\
## How the loss fell

Both curves fall while the network learns what holds for any text of this kind. Where the
validation curve turns up again, it has begun to learn its own text by heart.""", """\
def show_picture(what, path):
    if "get_ipython" in globals():  # in a notebook
        from IPython.display import SVG, display
        display(SVG(filename=str(path)))
    else:
        print(f"The {what} is drawn in {path}")


show_picture("loss", result.folder / "loss.svg")"""), ("""\
## Let it write

One character after the other, each drawn from what the network thinks likely to come next. What
the text has no character for is left out of the prompt.""", """\
def write(prompt, length=500, **settings):
    prompt = known_part(result.vocabulary, prompt)
    print(prompt, end="")
    for piece in generate(result.model, result.vocabulary, prompt, length, **settings):
        print(piece, end="")
    print()


write("ROMEO:", seed=1)"""), ("""\
## A prompt of your own

Change the two values and run the cell again, as often as you like. A low temperature keeps to
what is likely, a high one dares more.""", """\
PROMPT = "The king said"
TEMPERATURE = 0.8  # 0: always the likeliest character

write(PROMPT, temperature=TEMPERATURE)"""), ("""\
## Look inside: what surprises it

How well could the network have guessed a text? Its surprise at a character is minus the logarithm
(base 2) of the chance it gave that character, in bits: 0 if it was certain, 1 for a coin's toss.
Before training every character is a surprise of log2(vocabulary) bits. In the picture the darker a
character, the greater the surprise; point at one for its number.""", """\
TEXT = "ROMEO:\\nTo be, or not to be: that is the question."


def surprises(text):
    \"\"\"Bits for each character of a text, as if a line had just ended before it: (T,).\"\"\"
    before, ids = (start_ids(result.model, result.vocabulary, part) for part in ("", text))
    with torch.inference_mode():
        logits = result.model(torch.cat([before, ids[:, :-1]], dim=1))  # (1, T, V)
    return -logits.log_softmax(2).gather(2, ids[:, :, None]).flatten() / math.log(2)


def surprise_picture(text, bits, columns=64):
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{10 * columns}" '
           f'height="{24 * -(-len(text) // columns)}" font-family="monospace" font-size="15">']
    for place, (character, surprise) in enumerate(zip(text, bits)):
        x, y = 10 * (place % columns), 24 * (place // columns)
        shown = html.escape({"\\n": "↵", " ": "·"}.get(character, character))
        out.append(f'<g><title>{shown} {surprise:.2f} bits</title><rect x="{x}" y="{y}" width="10" '
                   f'height="22" fill="#d6336c" opacity="{min(0.9, surprise / 10):.2f}"/>'
                   f'<text x="{x}" y="{y + 16}" fill="#808898">{shown}</text></g>')
    return "\\n".join([*out, "</svg>"])


text = known_part(result.vocabulary, TEXT)[:config.block_size]
bits = surprises(text)
print(f"{bits.mean():.2f} bits per character; before training {math.log2(config.vocab_size):.2f}")
picture = result.folder / "surprise.svg"
picture.write_text(surprise_picture(text, bits.tolist()), encoding="utf-8")
show_picture("surprise", picture)"""), ("""\
## Look inside: where it looks

Attention is the only way by which one character learns of another. For every layer (rows) and head
(columns) a map: each line is a character of the text that looks, each column one that it looks at;
dark is much. Nothing right of the diagonal: that would be the future. A line parallel to the
diagonal looks back by a fixed distance, a column is a character that everything looks at.""", """\
def attention_maps(text):
    \"\"\"How each head spreads its attention: (layers, nh, T, T), each row adds to 1.\"\"\"
    maps = []

    def look(attention, inputs):  # called before each attention, with what it is given
        q, k, _ = attention.split(*inputs)  # (1, nh, T, hs)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.size(3))  # (1, nh, T, T)
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        maps.append(scores.masked_fill(future, -math.inf).softmax(3)[0])

    hooks = [block.attention.register_forward_pre_hook(look) for block in result.model.blocks]
    with torch.inference_mode():
        result.model(start_ids(result.model, result.vocabulary, text))
    for hook in hooks:
        hook.remove()
    return torch.stack(maps)


def attention_picture(maps, size=100, gap=12):
    layers, heads, T, _ = maps.shape
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{heads * (size + gap)}" '
           f'height="{layers * (size + gap)}" fill="#0b62ba">']
    for layer in range(layers):
        for head in range(heads):
            out.append(f'<g transform="translate({head * (size + gap)} {layer * (size + gap)}) '
                       f'scale({size / T})"><title>layer {layer + 1}, head {head + 1}</title>'
                       f'<path d="M0 0V{T}H{T}Z" opacity="0.08"/>')
            for row, weights in enumerate(maps[layer, head].tolist()):
                out += [f'<rect x="{column}" y="{row}" width="1" height="1" '
                        f'opacity="{weight:.2f}"/>'
                        for column, weight in enumerate(weights) if weight > 0.03]
            out.append("</g>")
    return "\\n".join([*out, "</svg>"])


picture = result.folder / "attention.svg"
picture.write_text(attention_picture(attention_maps(text).cpu()), encoding="utf-8")
show_picture("attention", picture)"""), ("""\
## Keep it

Colab forgets its files when it closes. The run is a folder under `runs/` in the Files panel on
the left, and `best.pt` in it is the network. Download it there, or with two lines in a new cell:

```python
from google.colab import files
files.download(str(result.folder / "best.pt"))
```

On your own computer `python gltch_2_7m.py sample --checkpoint best.pt` lets it write. Here
`train(resume=str(result.folder))` goes on with a run that was stopped.""", "")]


def sentence(text: str) -> str:
    """The first sentence, wrapped."""
    return fill(re.split(r"(?<=[.!?])\s", " ".join(text.split("\n\n")[0].split()))[0], WIDTH)


def sections(source: str) -> Iterator[Tuple[str, str, str]]:
    """Heading, prose and code of every section, except those about the command line."""
    header, *parts = PART.split(source)
    for part, content in zip(parts[0::2], parts[1::2]):
        heading = f"# {part.capitalize().replace(' i', ' I')}\n\n"
        _, *pieces = BANNER.split(content)
        for title, prose, code in zip(pieces[0::3], pieces[1::3], pieces[2::3]):
            if "command line" not in title.lower():
                about = re.sub("^# ?", "", prose, flags=re.MULTILINE).strip()
                yield f"{heading}## {title}", about, code.strip()
                heading = ""


def imports(source: str, kept: str) -> str:
    """The imports above the sections, without those that the kept code has no use for."""
    used = {node.id for node in ast.walk(ast.parse(kept)) if isinstance(node, ast.Name)}
    lines = []
    for top in (BANNER.split(part)[0] for part in PART.split(source)[0::2]):
        nodes = [n for n in ast.walk(ast.parse(top)) if isinstance(n, (ast.Import, ast.ImportFrom))]
        for node in sorted(nodes, key=lambda node: node.lineno):
            names = {alias.asname or alias.name.split(".")[0] for alias in node.names}
            if names & {*used, "annotations"}:  # that one is the __future__ import
                lines.append(ast.get_source_segment(top, node) or "")
    return "\n".join(lines)


def explain(code: str) -> List[str]:
    """For every class and function with a docstring: its name and the first sentence."""
    return [sentence(f"**{node.name}.** {ast.get_docstring(node)}") for node in ast.parse(code).body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)]


def cut(code: str) -> List[str]:
    """A section in cells: a class has one to itself, short functions share one, and what has no
    docstring stays with what it follows."""
    cells: List[str] = []
    for piece in code.split("\n\n\n"):
        together = "\n\n\n".join([*cells[-1:], piece])
        apart = re.search("^class ", together, re.MULTILINE) or together.count("\n") >= LONGEST
        if cells and not (apart and explain(piece)):
            cells[-1] = together
        else:
            cells.append(piece)
    return cells


def make_cells(source: str) -> List[Cell]:
    """The whole notebook."""
    kept = list(sections(source))
    code = "\n\n\n".join(code for _, _, code in kept)
    if not kept or "sys.argv" in code:
        sys.exit(f"{SOURCE} must have banner sections in two parts, and sys.argv only in those "
                 "whose title says 'command line'.")
    title, about = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[:2]
    opening = OPENING.format(title=title.rstrip("."), summary=sentence(about))
    cells = [(opening, imports(source, code)), SETTINGS]
    for heading, prose, code in kept:
        first, *rest = cut(code)
        cells.append(("\n\n".join([heading, *filter(None, [prose]), *explain(first)]), first))
        cells += [("\n\n".join(explain(part)), part) for part in rest]
    return cells + ENDING


def as_script(cells: List[Cell]) -> str:
    """The cells in the percent format, which Jupytext, VS Code and Spyder read."""
    blocks = []
    for text, code in cells:
        comment = "\n".join(f"# {line}".rstrip() for line in text.split("\n"))
        blocks += [f"# %% [markdown]\n{comment}"] + [f"# %%\n{code}"] * bool(code)
    return "\n\n".join(blocks) + "\n"


def as_notebook(cells: List[Cell]) -> str:
    """The cells as a notebook without outputs, in nbformat 4.5."""
    out: List[Dict[str, Any]] = []
    for kind, source in [pair for cell in cells for pair in zip(("markdown", "code"), cell)]:
        if source:
            out.append({"cell_type": kind, "id": f"cell-{len(out):02}", "metadata": {},
                        "source": source.splitlines(True)})
        if source and kind == "code":
            out[-1].update(execution_count=None, outputs=[])
    metadata = {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []},
                "kernelspec": {"display_name": "Python 3", "name": "python3"},
                "language_info": {"name": "python"}}
    book = {"cells": out, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=f"Make the Colab version of {SOURCE}.")
    parser.add_argument("--check", action="store_true", help="exit with 1 if it is not up to date")
    check = parser.parse_args().check
    cells = make_cells((ROOT / SOURCE).read_text(encoding="utf-8"))
    for path, text in ((ROOT / f"{NAME}.py", as_script(cells)),
                       (ROOT / f"{NAME}.ipynb", as_notebook(cells))):
        if not check:
            path.write_bytes(text.encode())
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.name} is not what {SOURCE} gives: run python tools/make_colab.py")


if __name__ == "__main__":
    main()

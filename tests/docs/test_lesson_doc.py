"""docs/lesson.md: its answers quote Part I word for word, their claims hold, its program runs."""
import ast
import importlib.util
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from gltch_2_7m import GLTCH, Config, orthogonalize, plain_attention

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "lesson.md").read_text(encoding="utf-8")
PART_ONE = re.split(r"^# =+\n# +PART II", (ROOT / "gltch_2_7m.py").read_text(encoding="utf-8"),
                    flags=re.MULTILINE)[0]
QUESTIONS = re.findall(r"^## (\d+)\. ([^\n]+\?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.DOTALL)
QUOTES = re.findall(r"^- `([\w.]+)`: `(.+)`$", DOCUMENT, re.MULTILINE)
TINY = Config(vocab_size=11, block_size=12, n_layer=2, n_head=3, n_embd=12, dropout=0.0)


def lines_of(name):
    """The lines of a function, method or class of Part I."""
    owner, _, method = name.rpartition(".")
    nodes = ast.parse(PART_ONE).body
    if owner:
        nodes = next(node for node in nodes
                     if isinstance(node, ast.ClassDef) and node.name == owner).body
    node = next(node for node in nodes
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
                and node.name == (method or name))
    return [line.strip() for line in PART_ONE.split("\n")[node.lineno - 1: node.end_lineno]]


def test_there_are_ten_questions_and_every_answer_quotes_the_lesson():
    assert [int(number) for number, _, _ in QUESTIONS] == list(range(1, 11))
    for _, question, answer in QUESTIONS:
        assert re.search(r"^- `", answer, re.MULTILINE), question


@pytest.mark.parametrize("name, line", QUOTES)
def test_a_quoted_line_stands_in_the_function_that_is_named(name, line):
    assert line in lines_of(name)


def test_every_reference_is_one_that_is_checked():
    assert len(QUOTES) == sum(line.startswith("- ") for line in DOCUMENT.split("\n")) > 30


def test_the_program_of_the_document_runs_on_part_one_alone(place, monkeypatch, capsys):
    program, = re.findall(r"```python\n(.+?)```", DOCUMENT, re.DOTALL)
    (place / "lesson.py").write_text(PART_ONE, encoding="utf-8")
    (place / "my.txt").write_text("A word, another word.\n" * 90, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("lesson", str(place / "lesson.py"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lesson", module)
    spec.loader.exec_module(module)
    small = program.replace("steps=200", "steps=2, batch_size=2").replace(
        "vocab_size=len(vocabulary)", "len(vocabulary), 16, 2, 2, 16")
    exec(compile(small, "docs/lesson.md", "exec"), {"__name__": "program"})
    said = capsys.readouterr().out
    assert "step 0: eval loss 2.6391" in said and "step 2: train loss" in said
    assert len(said.split("step 2: eval loss")[1]) > 200


# --- What the answers claim -----------------------------------------------------------------------


def test_the_first_loss_of_65_characters_is_4_174():
    ids = torch.randint(65, (2, 129))
    loss = GLTCH(Config(n_layer=1))(ids[:, :-1], ids[:, 1:]).item()
    assert loss == pytest.approx(math.log(65), abs=1e-4) and f"{loss:.3f}" == "4.174"


def off_by(shift, monkeypatch):
    """Attention with a mask that begins elsewhere, on values of which only the last is not zero."""
    triu = torch.Tensor.triu
    monkeypatch.setattr(torch.Tensor, "triu", lambda x, diagonal: triu(x, diagonal + shift))
    q, k, v = torch.randn(2, 1, 1, 5, 4), torch.randn(1, 1, 5, 4), torch.zeros(1, 1, 5, 4)
    v[0, 0, 4] = 1
    return plain_attention(q[0], k, v)[0, 0, :, 0]


def test_a_mask_one_further_shows_every_position_its_successor(monkeypatch):
    seen = off_by(1, monkeypatch)
    assert seen[3] > 0 and not seen[:3].any()


def test_a_mask_one_nearer_makes_the_first_position_not_a_number(monkeypatch):
    assert off_by(-1, monkeypatch)[0].isnan()


def test_there_is_no_position_past_the_context():
    with pytest.raises(IndexError):
        GLTCH(TINY)(torch.zeros(1, TINY.block_size + 1, dtype=torch.long))


def test_a_gradient_of_rank_one_comes_out_as_long_whatever_its_size():
    values = []
    for size in (1e-3, 1.0, 1e3):
        g = size * torch.outer(torch.randn(8).double(), torch.randn(8).double())
        values.append(torch.linalg.svdvals(orthogonalize(g, torch.float64)))
    for largest, *others in values:
        assert 0.6 < largest < 0.8 and max(others) < 1e-9
    assert values[0][0].item() == pytest.approx(values[2][0].item(), abs=1e-3)

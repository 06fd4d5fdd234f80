"""The Colab version: the same model in cells, made by tools/make_colab.py, and it runs."""
import ast
import builtins
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
import torch
from attention import attention_of
from nbclient import NotebookClient

import gltch_2_7m

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "gltch_2_7m.py").read_text(encoding="utf-8")
SCRIPT = (ROOT / "gltch_2_7m_colab.py").read_text(encoding="utf-8")
NOTEBOOK = (ROOT / "gltch_2_7m_colab.ipynb").read_text(encoding="utf-8")

VERSE = "ROMEO:\nThe king said he would not go to sea,\nand so he stayed at home.\n\n"
SETTINGS = re.compile(r"^STEPS = .*\nDATA = .*$", re.MULTILINE)
BUDGET = 'STEPS = 2\nDATA = ["verse.txt"]'


def make_colab(folder, *options):
    """Run a copy of the generator on the gltch_2_7m.py in a folder."""
    (folder / "tools").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tools" / "make_colab.py", folder / "tools")
    return subprocess.run([sys.executable, "tools/make_colab.py", *options], cwd=folder,
                          capture_output=True, text=True, timeout=30)


def definitions(source):
    """The lines of every class and function at the top level, by name."""
    lines = source.splitlines()
    return {node.name: lines[node.lineno - 1: node.end_lineno] for node in ast.parse(source).body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def script_cells():
    """(kind, source) of every cell of the script."""
    for cell in re.split(r"^# %%", SCRIPT, flags=re.MULTILINE)[1:]:
        marker, _, text = cell.partition("\n")
        if marker:
            text = re.sub("^# ?", "", text, flags=re.MULTILINE)
        yield "markdown" if marker else "code", text.strip()


def the_cell(book, part):
    found = [cell for cell in book.cells if cell.cell_type == "code" and part in cell.source]
    assert len(found) == 1, f"{len(found)} cells with {part!r}"
    return found[0]


def printed(cell):
    return "".join(output.text for output in cell.outputs
                   if output.output_type == "stream" and output.name == "stdout")


def pictures(cell):
    return [output.data["image/svg+xml"] for output in cell.outputs
            if output.output_type == "display_data"]


@pytest.fixture(scope="module")
def workplace(processes, tmp_path_factory):
    """A folder with a small text, no network, and a Jupyter that runs this very interpreter."""
    folder = tmp_path_factory.mktemp("colab")
    (folder / "verse.txt").write_text(VERSE * 60, encoding="utf-8")
    kernel = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3", "language": "python"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GLTCH_DATA", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody answers
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))  # searched before all others
        for name in ("XDG_CACHE_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        yield folder


@pytest.fixture(scope="module")
def played(workplace):
    """The notebook after a run of all its cells, with a small budget."""
    book = nbformat.reads(NOTEBOOK, as_version=4)
    settings = the_cell(book, "DATA = [")
    settings.source, count = SETTINGS.subn(BUDGET, settings.source)
    assert count == 1
    NotebookClient(book, timeout=120, startup_timeout=60, kernel_name="python3",
                   resources={"metadata": {"path": str(workplace)}}).execute()
    return book


@pytest.mark.process
def test_the_committed_files_are_what_the_generator_makes_of_the_model_today(tmp_path):
    shutil.copy(ROOT / "gltch_2_7m.py", tmp_path)
    assert make_colab(tmp_path).returncode == 0
    for name, committed in (("gltch_2_7m_colab.py", SCRIPT), ("gltch_2_7m_colab.ipynb", NOTEBOOK)):
        fresh = (tmp_path / name).read_text(encoding="utf-8")
        assert fresh == committed, f"{name} is out of date: run python tools/make_colab.py"
    assert make_colab(tmp_path, "--check").returncode == 0


@pytest.mark.parametrize("name", ["gltch_2_7m_colab.py", "gltch_2_7m_colab.ipynb"])
@pytest.mark.process
def test_the_check_names_a_file_that_differs_and_leaves_it_alone(tmp_path, name):
    shutil.copy(ROOT / "gltch_2_7m.py", tmp_path)
    make_colab(tmp_path)
    (tmp_path / name).write_text("an edit by hand\n")
    result = make_colab(tmp_path, "--check")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (f"{name} is not what gltch_2_7m.py gives: "
                             "run python tools/make_colab.py\n")
    assert (tmp_path / name).read_text() == "an edit by hand\n"


@pytest.mark.process
def test_the_check_fails_once_the_model_changes(tmp_path):
    shutil.copy(ROOT / "gltch_2_7m.py", tmp_path)
    make_colab(tmp_path)
    changed = SOURCE.replace("class GLTCH(nn.Module):", "class GLTCH(nn.Module):  # changed")
    (tmp_path / "gltch_2_7m.py").write_text(changed, encoding="utf-8")
    assert make_colab(tmp_path, "--check").returncode == 1


@pytest.mark.process
def test_a_model_without_banners_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "gltch_2_7m.py").write_text('"""One."""\nimport sys\nprint(sys.argv)\n')
    result = make_colab(tmp_path)
    assert result.returncode == 1 and "must have banner sections" in result.stderr
    assert not (tmp_path / "gltch_2_7m_colab.py").exists()


def test_every_class_and_function_in_it_is_word_for_word_that_of_the_model():
    own, model = definitions(SCRIPT), definitions(SOURCE)
    assert {"GLTCH", "Muon", "load_corpus", "train", "generate"} <= own.keys()
    assert own.keys() - model.keys() == {  # of the cells that the generator adds
        "write", "show_picture", "surprises", "surprise_picture", "attention_maps",
        "attention_picture"}
    assert [name for name in own if name in model and own[name] != model[name]] == []


def test_nothing_that_was_left_out_is_used():
    tree = ast.parse(SCRIPT)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known = {*dir(builtins), *(n.id for n in names if isinstance(n.ctx, ast.Store))}
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            known.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            known |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            known.add(node.name)
    assert {node.id for node in names} - known == set()


def test_nothing_in_it_reads_a_command_line():
    nodes = list(ast.walk(ast.parse(SCRIPT)))
    assert not any(isinstance(node, ast.alias) and node.name == "argparse" for node in nodes)
    assert not any(isinstance(node, ast.Attribute) and node.attr == "argv" for node in nodes)


def test_an_explanation_stands_before_every_code_cell():
    kinds = [kind for kind, _ in script_cells()]
    assert kinds.count("code") > 30
    assert all(before == "markdown" for before, kind in zip(kinds, kinds[1:]) if kind == "code")
    assert kinds[0] == "markdown" and all(source for _, source in script_cells())


def test_script_and_notebook_hold_the_same_cells():
    book = nbformat.reads(NOTEBOOK, as_version=4)
    assert [(cell.cell_type, cell.source) for cell in book.cells] == list(script_cells())


def test_the_notebook_is_valid_empty_and_asks_colab_for_a_gpu():
    book = nbformat.reads(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    assert all(not cell.get("outputs") for cell in book.cells)
    assert book.metadata.accelerator == "GPU" and book.metadata.kernelspec.name == "python3"


def test_the_notebook_shows_the_text_and_the_network_it_builds_for_it(played):
    shown = printed(the_cell(played, "load_corpus(DATA)"))
    assert f"{60 * len(VERSE):,} characters, {len(set(VERSE))} different" in shown
    assert VERSE in shown
    parts = printed(the_cell(played, "parameter_table(GLTCH(config))"))
    assert re.search(r"total +2,6\d\d,\d\d\d$", parts)


def test_the_notebook_trains(played, workplace):
    said = printed(the_cell(played, "train(config, recipe, corpus)"))
    assert re.fullmatch(r"2 steps, validation loss \d\.\d{4} when last measured\n", said)
    assert list(workplace.glob("runs/*/best.pt"))


def test_the_notebook_draws_the_loss(played):
    picture, = pictures(the_cell(played, "import SVG"))
    assert "<polyline" in picture


def test_the_notebook_draws_what_surprises_it(played):
    cell = the_cell(played, "def surprises")
    picture, = pictures(cell)
    said, before = re.findall(r"\d+\.\d\d", printed(cell))
    bits = [float(number) for number in re.findall(r"(\d+\.\d\d) bits</title>", picture)]
    assert sum(bits) / len(bits) == pytest.approx(float(said), abs=0.01)
    assert float(said) == pytest.approx(math.log2(len(set(VERSE))), abs=1) and before < "5"


def test_the_notebook_draws_where_every_head_looks(played):
    picture, = pictures(the_cell(played, "def attention_maps"))
    titles = re.findall(r"<title>(layer \d, head \d)</title>", picture)
    assert titles == [f"layer {n}, head {h}" for n in range(1, 7) for h in range(1, 7)]
    for x, y in re.findall(r'<rect x="(\d+)" y="(\d+)"', picture):
        assert int(x) <= int(y)  # nobody looks into the future


@pytest.fixture
def cells():
    """What the cells about the inside define, with a network that has something to look at."""
    characters = "\n abcdef"
    config = gltch_2_7m.Config(len(characters), 24, 2, 3, 12, 0.0)
    torch.manual_seed(1)
    model = gltch_2_7m.GLTCH(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    names = {**vars(gltch_2_7m), "config": config, "result": SimpleNamespace(
        model=model, vocabulary=gltch_2_7m.Vocabulary(characters))}
    own = definitions(SCRIPT)
    for name in ("surprises", "attention_maps"):
        exec("\n".join(own[name]), names)
    return SimpleNamespace(**names)


def test_the_cells_surprises_are_the_loss_in_bits(cells):
    text, model = "fade a\nbed", cells.result.model
    ids = cells.result.vocabulary.encode("\n" + text)
    loss = model(ids[None, :-1], ids[None, 1:]).item()
    bits = cells.surprises(text)
    assert bits.shape == (len(text),)
    assert bits.mean().item() == pytest.approx(loss / math.log(2), abs=1e-5)
    logits = model(ids[None, :4])[0, -1]  # of what comes after "\nfad"
    assert bits[3].item() == pytest.approx(-logits.softmax(0)[ids[4]].log2().item(), abs=1e-5)


def test_the_cells_maps_are_the_attention_of_a_plain_forward_pass(cells):
    text = "fade a\nbed"
    maps = cells.attention_maps(text)
    expected = attention_of(cells.result.model, cells.result.vocabulary.encode(text)[None])
    torch.testing.assert_close(maps, torch.stack(expected)[:, 0])
    assert maps.shape == (2, 3, len(text), len(text))


def test_the_notebook_writes_text_for_both_prompts(played):
    for part, prompt in (('write("ROMEO', "ROMEO:"), ("write(PROMPT", "The king said")):
        text = printed(the_cell(played, part))
        assert text.startswith(prompt) and len(text) == len(prompt) + 500 + 1
        assert set(text) <= set(VERSE)


def test_the_script_does_the_same_whatever_stands_on_its_command_line(workplace, tmp_path):
    shutil.copy(workplace / "verse.txt", tmp_path)
    small, count = SETTINGS.subn(BUDGET, SCRIPT)
    assert count == 1
    (tmp_path / "colab.py").write_text(small, encoding="utf-8")
    result = subprocess.run([sys.executable, "colab.py", "-f", "kernel.json"], cwd=tmp_path,
                            capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode == 0, result.stderr
    assert "2 steps, validation loss " in result.stdout
    plot = re.search("The loss is drawn in (.+)", result.stdout)
    assert plot and "<polyline" in (tmp_path / plot[1]).read_text(encoding="utf-8")
    written, inside = re.split(r"(?=\d\.\d\d bits per character)", result.stdout)
    romeo, king = written.split(plot[0] + "\n")[1].rsplit("The king said", 1)
    assert romeo.startswith("ROMEO:") and len(romeo) == 6 + 500 + 1
    assert len(king) == 500 + 1
    for what in ("surprise", "attention"):
        drawn = re.search(f"The {what} is drawn in (.+)", inside)
        assert "<rect" in (tmp_path / drawn[1]).read_text(encoding="utf-8")

"""The notebook that joins a hive from Colab: valid, and its commands are ones that exist."""
import json
import shlex
from pathlib import Path

import nbformat

from hive.dashboard.web import PEER_FILE
from hive.key import key_of
from hive.peer import build_parser

NOTEBOOK = Path(__file__).resolve().parents[2] / "hive" / "join_colab.ipynb"


def code():
    """The cells' code, without the lines for the shell; and those lines."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code"
             for line in "".join(cell["source"]).splitlines()]
    return ([line for line in lines if not line.startswith("!")],
            [line[1:] for line in lines if line.startswith("!")])


def test_the_notebook_is_a_valid_one_without_output():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells)


def test_its_last_cell_joins_with_options_that_the_peer_knows(monkeypatch):
    monkeypatch.setattr("getpass.getpass", lambda prompt: "secret")
    monkeypatch.setenv("HIVE_KEY", "")  # put back afterwards
    python, shell = code()
    settings = {}
    exec("\n".join(python), settings)
    program, *arguments = shlex.split(shell[-1].format(**settings))[1:]
    curl, *_, address = shlex.split(shell[0].format(**settings))
    page, _, file = address.rpartition("/")
    assert curl == "curl" and file == program and f"/{file}" == PEER_FILE
    assert page == "https://example.trycloudflare.com"
    args = build_parser().parse_args(arguments)
    assert args.server == settings["SERVER"] and args.name == settings["NAME"]
    assert key_of(args) == "secret", "the key comes from the environment, not from the command"


def test_it_installs_what_the_hive_needs_besides_pytorch():
    assert any("pip install" in line and "websockets" in line for line in code()[1])

"""The benchmarks run: nobody would notice before the day on which a figure is wanted."""
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.process
def test_what_people_would_use_instead_is_trained_and_measured(text_file):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "others.py"), "--data", str(text_file), "--minutes",
         "0.005", "--turns", "1", "--only", "gltch", "--only", "compact_recipe"],
        capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["| gltch", "| compact_recipe"]
    assert all(1 < float(row[2].split()[0]) < 6 for row in rows[1:])

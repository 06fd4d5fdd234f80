"""The benchmarks run: nobody would notice before the day on which a figure is wanted."""
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hive_pays import seconds_to

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


def test_the_time_to_a_loss_lies_on_the_line_between_two_measurements():
    points = [(200.0, 1.5), (50.0, 2.0), (100.0, 1.75)]
    assert seconds_to(1.75, points) == pytest.approx(100)
    assert seconds_to(1.625, points) == pytest.approx(100 * math.sqrt(2))  # of its logarithm
    assert seconds_to(2.1, points) is None  # it was there before the first
    assert seconds_to(1.4, points) is None  # it never came


@pytest.mark.process
def test_hives_that_learn_are_compared_with_one_peer_alone(tmp_path):
    text_file = tmp_path / "many.txt"  # more different characters than Tiny Shakespeare has
    text_file.write_text("".join(map(chr, range(33, 123))) * 50, encoding="utf-8")
    command = [sys.executable, str(BENCHMARKS / "hive_pays.py"), "--learn", "--network", "small",
               "--minutes", "0.04", "--batch-size", "2", "--peers", "2", "--shares", "0.2", "2",
               "--output", str(tmp_path / "rows.jsonl")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8",
                          env={**os.environ, "GLTCH_DATA": str(text_file)})
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["alone", "ideal", "hive", "ideal", "hive"]
    assert all(0 < row["loss"] < 5 for row in rows)
    assert done.stdout.splitlines()[-1].startswith("| 2 | home | ")
    again = subprocess.run(command, capture_output=True, encoding="utf-8",
                           env={**os.environ, "GLTCH_DATA": str(text_file)})
    assert again.stdout == done.stdout and not again.stderr  # every row was kept

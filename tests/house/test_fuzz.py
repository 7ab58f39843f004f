"""The command that makes strange files, pictures and prompts: of a small run nothing is raised raw."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the command needs a system that can fork")
def test_a_small_run_finds_nothing(tmp_path):
    pytest.importorskip("insightface")
    numbers = ["--files", "150", "--pictures", "40", "--prompts", "80", "--seed", "3"]
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", *numbers]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    totals = [line.split(" | ") for line in run.stdout.splitlines() if line.startswith("| all |")]
    assert len(totals) == 3
    for _, number, used, refused, *wrong in totals:
        assert int(used) > 0 and int(used) + int(refused) == int(number)
        assert [cell.strip(" |") for cell in wrong] == ["0"] * 4, run.stderr

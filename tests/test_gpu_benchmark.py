"""The benchmark of GPUs, on a CPU: it runs through, so that no minute of a lent GPU is lost."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_every_part_tells() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    parts = ["machine", "tests", "throughput", "workers", "latency", "fast", "main"]
    assert list(dict.fromkeys(line["part"] for line in lines)) == parts
    assert all("test_accuracy" in line["final"] for line in lines[-2:])
    (tests,) = (line for line in lines if line["part"] == "tests")
    assert tests["rc"] == 0

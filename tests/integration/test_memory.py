"""Two processes, of each engine, layout and ZeRO stage, take the memory that the doctor reckons."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the extra `deepspeed` is not installed"
)
def test_it_is_within_a_tenth() -> None:
    command = [sys.executable, "benchmarks/memory.py", "--size", "small", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 29
    for row in rows:
        assert row["together"] == pytest.approx(row["measured"], rel=0.1), row

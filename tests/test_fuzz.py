"""A few of the mutations that `fuzz_inputs.py` makes by the thousand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("kind", "least"), [("images", 100), ("lists", 150), ("shards", 100), ("manifests", 150)]
)
def test_damage_gives_a_clear_line_or_a_right_read(kind, least):
    command = [sys.executable, str(Path(__file__).with_name("fuzz_inputs.py")), "300", "0", kind]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["count"] == 300
    assert figures["refused"] > least

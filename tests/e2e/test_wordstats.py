"""The example of the tasks guide, over part of Python's own sources."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from tests.e2e.node import node

EXAMPLE = Path(__file__).parents[2] / "examples" / "wordstats"


def test_it_counts_what_a_loop_would_count_and_shows_how_far_it_is() -> None:
    sources = Path(sysconfig.get_path("stdlib"), "json")
    expected: Counter[str] = Counter()
    files = sorted(sources.rglob("*.py"))
    for file in files:
        expected.update(word.lower() for word in re.findall(r"[A-Za-z_]{3,}", file.read_text()))
    texts = {path.name: path.read_text() for path in EXAMPLE.iterdir() if path.is_file()}
    with node(texts.pop("otpd.toml"), texts) as n:
        argv = [sys.executable, "wordstats.py", str(sources)]
        done = subprocess.run(argv, cwd=n.home, env=n.env, capture_output=True, text=True, timeout=100)
        first, *rest = done.stdout.splitlines()
        assert first == f"{len(files)} files, {expected.total()} words"
        assert [(int(times), word) for times, word in map(str.split, rest)] == [(k, w) for w, k in expected.most_common(10)]
        assert done.stderr.rstrip().endswith(f"] {len(files)}/{len(files)}")
        assert json.loads(n.otpd("tasks", "words", "--json").stdout)["done"] == len(files)

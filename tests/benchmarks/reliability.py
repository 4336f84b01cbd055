"""Every fault of tests/faults, the long ones too: the table of docs/reliability.md.

    python -m tests.benchmarks.reliability

runs them, two at a time, and prints what was tried, how often, and how often it ended as it should: Markdown.
`make test-faults` calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import platform
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Table:
    """A pytest plugin that counts outcomes by test."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("::")[2].partition("[")[0]
            self.counts.setdefault(name, Counter())[report.outcome] += 1

    def __str__(self) -> str:
        lines = ["| what was tried | times | as it should be |", "| --- | --- | --- |"]
        for name, counts in sorted(self.counts.items()):
            tried = counts["passed"] + counts["failed"]
            words = name.removeprefix("test_").replace("_", " ")
            lines.append(f"| {words} | {tried or 'skipped'} | {counts['passed']} |")
        return "\n".join(lines)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "orbax-checkpoint")]
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, {', '.join(versions)}.\n", flush=True
    )
    table = Table()
    with contextlib.redirect_stdout(sys.stderr):
        status = pytest.main(
            [str(ROOT / "tests/faults"), "-m", "slow or not slow", "-q", "-n", "2"], plugins=[table]
        )
    print(table)
    sys.exit(status)


if __name__ == "__main__":
    main()

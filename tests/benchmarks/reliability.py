"""Every fault of tests/faults, the long ones too: the table of docs/reliability.md.

    python tests/benchmarks/reliability.py

runs them (about an hour on two cores) and prints what was tried, how often, and how often it ended as it
should, in Markdown. `make test-faults` calls it.
"""

from __future__ import annotations

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
    """A pytest plugin that counts outcomes by test, and keeps the first line of its docstring."""

    def __init__(self) -> None:
        self.described: dict[str, str] = {}
        self.counts: dict[str, Counter] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            name = item.function.__name__  # type: ignore[attr-defined]
            words = name.removeprefix("test_").replace("_", " ")
            self.described[name] = words[0].upper() + words[1:]
            self.counts.setdefault(name, Counter())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.nodeid.split("::")[1].split("[")[0]][report.outcome] += 1

    def __str__(self) -> str:
        lines = ["| what was tried | times | as it should be |", "| --- | --- | --- |"]
        for name, counts in self.counts.items():
            tried = counts["passed"] + counts["failed"]
            lines.append(f"| {self.described[name]} | {tried or 'skipped'} | {counts['passed']} |")
        return "\n".join(lines)


def main() -> None:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "orbax-checkpoint")]
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, {', '.join(versions)}.\n", flush=True
    )
    table = Table()
    with contextlib.redirect_stdout(sys.stderr):
        status = pytest.main([str(ROOT / "tests/faults"), "-m", "slow or not slow", "-q"], plugins=[table])
    print(table)
    sys.exit(status)


if __name__ == "__main__":
    main()

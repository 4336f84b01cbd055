"""Plans, each made in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bert_jax.config import Config
from bert_jax.config.as_json import to_json
from tests.helpers.paths import ROOT

# In a process of its own: libtpu takes signals for itself, and flags of compilers are read once.
PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
from bert_jax.planning.plan import find_pod, plan, report
from bert_jax.workdir.run_files import config_from_json
from tests.helpers.configs import spec_of
for name, text, options in json.load(sys.stdin):
    pod = find_pod(**options)
    found = plan(spec_of(config_from_json(text), platform=pod.platform), pod, cache=Path(sys.argv[1]))
    print(json.dumps({
        "name": name, "report": list(report(found)), "fits": found.fits, "rows": found.rows,
        "collectives": found.compiled.collectives, "parameters": found.parameters,
        "optimizer": found.optimizer, "devices": found.devices, "memory": found.compiled.memory,
        "attention": found.spec.kernels.names, "temporary": found.compiled.temporary,
        "custom_calls": found.compiled.custom_calls,
    }), flush=True)
"""


def asked(cases: dict[str, tuple[Config, dict]], cache: Path) -> dict[str, dict]:
    """Plans by name."""
    questions = [(name, to_json(config), options) for name, (config, options) in cases.items()]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(cache)],
        input=json.dumps(questions),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    answers = {answer["name"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"after {list(answers)}: {done.stderr[-2000:]}"
    return answers

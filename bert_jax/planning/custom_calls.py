"""Which kernels a compiled program calls that are not XLA's own, read from its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from bert_jax.planning.hlo_text import instructions

TARGET = re.compile(r'custom_call_target="([^"]+)"')

FUSED_ATTENTION = ("__cudnn$fmha", "tpu_custom_call")
"""How the names begin: cuDNN's, and Pallas' on TPUs, where Splash is the only kernel that we have."""


def custom_calls(text: str) -> dict[str, int]:
    """Name -> how often a step calls it, by `compiled.as_text()`."""
    found: Counter[str] = Counter()
    for instruction in instructions(text):
        if instruction.opcode == "custom-call" and (target := TARGET.search(instruction.line)):
            found[target[1]] += instruction.times
    return dict(found)


def report(calls: dict[str, int]) -> Iterator[str]:
    """Whether attention is fused, and what else is called."""
    fused = [f"{name} x{times}" for name, times in sorted(calls.items()) if name.startswith(FUSED_ATTENTION)]
    yield f"fused attention: {', '.join(fused)}" if fused else "attention is not fused"
    others = [
        f"{name} x{times}" for name, times in sorted(calls.items()) if not name.startswith(FUSED_ATTENTION)
    ]
    if others:
        yield f"other custom calls: {', '.join(others)}"

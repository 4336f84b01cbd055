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


LIBRARY = "__"
"""How the names of kernels of libraries begin; the others are the compiler's own."""


def report(calls: dict[str, int]) -> Iterator[str]:
    """Whether attention is fused, and which kernels of libraries are called else."""
    named = {name: f"{name} x{times}" for name, times in sorted(calls.items())}
    fused = [text for name, text in named.items() if name.startswith(FUSED_ATTENTION)]
    yield f"fused attention: {', '.join(fused)}" if fused else "attention is not fused"
    others = [text for name, text in named.items() if name.startswith(LIBRARY) and text not in fused]
    if others:
        yield f"other custom calls: {', '.join(others)}"

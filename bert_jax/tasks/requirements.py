"""What scores a task: libraries that only fine-tuning needs."""

from __future__ import annotations

import importlib.util

from data_pipeline.errors import UserError


def check_installed(name: str) -> None:
    """Raises UserError if a library that scores a task is not installed: before a training, not in it."""
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"scoring needs scikit-learn and seqeval: pip install 'bert-jax[finetune]' (no module {name!r})"
        )

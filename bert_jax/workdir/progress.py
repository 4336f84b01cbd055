"""Everything that a run must know to resume, beside its state. Saved with each checkpoint."""

from __future__ import annotations

from typing import Any, NamedTuple


class Progress(NamedTuple):
    """After a step. A function of the run alone, but for `seconds`: a replay of the steps makes it again."""

    position: int = 0
    """The position in the stream of rows: how many are behind the run, taken or skipped by a rollback."""
    tokens: int = 0
    """Seen by the steps, without padding."""
    seconds: float = 0.0
    """Seconds that the processes ran, one after the other, up to this checkpoint."""
    losses: tuple[float, ...] = ()
    """The losses of the last steps, for the loss monitor."""
    skipped_steps: int = 0
    """Steps without an update, because loss or gradient was not finite."""
    consecutive_skips: int = 0
    """Skipped steps in a row, up to the last step."""
    rollbacks: int = 0
    """Spikes of the loss that were answered by going back."""
    evaluated: int = -1
    """The step of the last evaluation that came to its end."""
    best_value: float | None = None
    """The best value of the validation metric that ranks checkpoints."""
    best_step: int | None = None
    evaluations_since_best: int = 0
    """Evaluations in a row without a better value, for early stopping."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Progress:
        """The inverse of `_asdict`, whose tuple JSON has made a list."""
        return cls(**fields | {"losses": tuple(map(float, fields["losses"]))})

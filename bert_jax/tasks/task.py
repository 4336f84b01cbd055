"""What a task is to the rest of the program: each module named in TASKS is a `Task`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from bert_jax.config import ObjectiveConfig
from bert_jax.models.encoder import Encoder
from bert_jax.objectives.objective import WholeBatchObjective
from bert_jax.tasks.features import Features
from data_pipeline.tokenizer import Tokenizer


class Target(NamedTuple):
    """A prediction, and the number about it that is to be explained."""

    prediction: str
    """What the model says, in words."""
    name: str
    """What the number is."""
    value: Callable[[jax.Array], jax.Array]
    """The number, of the logits of one row."""


def lacks_head(settings: ObjectiveConfig, encoder: Encoder, head: Callable[..., Any] | None) -> str | None:
    """Why a task whose `head` an encoder has to have cannot be trained on it; None if it can."""
    return None if head else f"{encoder.HUGGINGFACE.model_type} has no head for {settings.kind}"


class Task(WholeBatchObjective, Protocol):
    """An objective that also reads examples, makes rows of them, predicts, scores and explains.

    `settings` is the task's config. An example is what the task makes of it, with `where` it is from.
    """

    def check_libraries(self) -> None:
        """Raises UserError if what scores the task is not installed: before a training rather than in it."""

    def read(self, source: str, settings: Any, *, labelled: bool = True) -> list[Any]:
        """The examples of a file or of tfds:NAME:SPLIT, in order; without labels to predict, and then with
        `Empty` (records.py) in the place of one that has no text.

        Raises:
          FileNotFoundError, UserError: one line, with file and row. Rows do not count the header; lines do.
        """

    def read_stdin(self, lines: Iterable[bytes], settings: Any) -> Iterator[Any]:
        """The examples that lines of standard input are, to predict them one after the other; see `read`."""

    def example(self, text: str, pair: str | None, settings: Any) -> Any:
        """One that is typed, to be explained; raises UserError if a pair is wanted and missing."""

    def with_labels(self, settings: Any, examples: Sequence[Any]) -> Any:
        """`settings` with the labels that were asked for, or else those of the examples."""

    def featurize(self, examples: Sequence[Any], tokenizer: Tokenizer, settings: Any) -> Features:
        """Rows of all examples, in order, of settings.sequence_length columns.

        Raises:
          UserError: a label is unknown, only some examples have one, or the tokenizer lacks special pieces.
        """

    def predict(
        self, examples: Sequence[Any], features: Features, logits: np.ndarray, settings: Any
    ) -> list[dict[str, Any]]:
        """A JSON-able object for each example, in order."""

    def score(
        self, examples: Sequence[Any], predictions: Sequence[dict[str, Any]], settings: Any
    ) -> dict[str, float]:
        """The values of `metrics`, of the predictions for examples with labels."""

    def explain(
        self, example: Any, features: Features, logits: np.ndarray, settings: Any, label: str | None
    ) -> Target:
        """What to explain of an example, the only one in `features`: its prediction, or `label` if given."""

    def to_huggingface(self, settings: Any) -> dict[str, Any]:
        """Fields of config.json beside those of the encoder."""

    def from_huggingface(self, suffix: str, fields: dict[str, Any]) -> Any | None:
        """The task's config, by the end of the class that config.json names; None: it is of another task."""

"""What a trained model predicts for new texts: a JSON-able object for each."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import MeshConfig, TaskConfig
from bert_jax.finetuning import lengths
from bert_jax.finetuning.data import compile_apply, logits_of, make_splits
from bert_jax.inference.fill_mask import fill
from bert_jax.interop.load import LoadedModel, load_model
from bert_jax.objectives.objective import RowShape
from bert_jax.parallel import sharding
from bert_jax.parallel.platform import local_platform
from bert_jax.tasks import task_of
from bert_jax.tasks.records import STDIN, Empty, decoded, lines_of
from bert_jax.training.run_spec import kernels_for
from data_pipeline.corpus import is_blank, sanitize
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 512
"""Examples that are read before the first prediction is written."""
NAMED = 10
"""Texts without a prediction whose places are listed."""


def predictions(
    directory: Path,
    *,
    file: str | None,
    lines: Iterable[bytes],
    batch_size: int,
    top: int,
    text: str | None = None,
    pair: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Predictions in the order of the examples: a file, as the task reads it, or `lines` of standard input.

    A pretrained model takes a text a line, also of a file, and gives the `top` likeliest words for each
    [MASK]: fewer where two pieces of its vocabulary are one word, of which the likelier stays.

    What has nothing in it to predict has an `error` in its place, and is named at the end.

    Args:
      directory: an exported folder or a workdir.
      text, pair: columns of the text, and of a second one; None: those of the training, where they are known.

    Raises:
      FileNotFoundError, UserError: there is no model, it has no use for such a column, or an example cannot
        be used; names its place. After the last prediction: some had nothing in them.
    """
    count, empty = 0, []
    asked = {"text": text, "pair": pair}
    for prediction in _each(directory, asked, file=file, lines=lines, batch_size=batch_size, top=top):
        count += 1
        if isinstance(prediction, Empty):
            empty.append(prediction.where)
            yield {"error": prediction.reason}
        else:
            yield prediction
    if empty:
        places = ", ".join(empty[:NAMED]) + ", ..." * (len(empty) > NAMED)
        raise UserError(
            "no answer where something is empty, and the others are there: "
            f"{len(empty):,} of {count:,}, {places}"
        )


def _each(
    directory: Path,
    asked: dict[str, str | None],
    *,
    file: str | None,
    lines: Iterable[bytes],
    batch_size: int,
    top: int,
) -> Iterator[dict[str, Any] | Empty]:
    loaded = load_model(directory)
    settings = _with_columns(directory, loaded.network.settings, asked)
    if not isinstance(settings, TaskConfig):
        source, found = (file, lines_of(file)) if file else (STDIN, decoded(lines, STDIN))
        for number, line in enumerate(found, 1):
            text, where = sanitize(line).rstrip("\r\n"), f"{source} line {number}"
            if is_blank(text):
                yield Empty(where, f"{where} is empty")
            else:
                yield _filled(loaded, text, where=where, top=top)
        return
    task = task_of(settings)
    examples = iter(task.read(file, settings, labelled=False)) if file else task.read_stdin(lines, settings)
    yield from _predicted(loaded, settings, examples, batch_size=batch_size)


def _with_columns(directory: Path, settings: Any, asked: dict[str, str | None]) -> Any:
    """`settings` of a task with other columns, of what `asked` has by the names of the flags."""
    fields = settings.columns if isinstance(settings, TaskConfig) else ()
    known = dict(zip(asked, fields, strict=False))
    for flag, column in asked.items():
        if column is not None and flag not in known:
            kind = settings.kind if isinstance(settings, TaskConfig) else "no task"
            raise UserError(f"--{flag} {column!r}: {directory} is for {kind} and reads no such column")
    chosen = {known[flag]: column for flag, column in asked.items() if column is not None}
    return dataclasses.replace(settings, **chosen) if chosen else settings


def _predicted(
    loaded: LoadedModel, settings: TaskConfig, examples: Iterator[Any], *, batch_size: int
) -> Iterator[dict[str, Any] | Empty]:
    network, params, tokenizer = loaded
    task = task_of(settings)
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices()[:1])
    rows = RowShape(settings.sequence_length)
    # Those of the training may be for another device.
    kernels = kernels_for(network, rows, local_platform(), asked="auto")
    apply = compile_apply(network, kernels, mesh)
    cut: list[str] = []
    with jax.set_mesh(mesh):
        while chunk := list(islice(examples, CHUNK)):
            given = [example for example in chunk if not isinstance(example, Empty)]
            answers: Iterator[dict[str, Any]] = iter(())
            if given:
                ((_, features),) = make_splits(settings, [given], tokenizer)
                cut += features.cut
                count, columns = features.arrays["token_ids"].shape
                known = lengths.widths(
                    lengths.lengths_of(features.arrays), columns=columns, batches=count // batch_size
                )
                found = logits_of(
                    features.arrays, params, apply=apply, mesh=mesh, batch_size=batch_size, known=known
                )
                assert found is not None, "nothing stops it"
                answers = iter(task.predict(given, features, found[0], settings))
            for example in chunk:
                yield example if isinstance(example, Empty) else next(answers)
    if cut:
        log.warning("cut, because too long: %s, the first is %s", f"{len(cut):,}", cut[0])


def _filled(loaded: LoadedModel, text: str, *, where: str, top: int) -> dict[str, Any]:
    try:
        guesses = fill(loaded, text, top=top)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    by_word: list[dict[str, float]] = [{} for _ in guesses]
    for words, found in zip(guesses, by_word, strict=True):
        for guess in words:  # the likeliest first
            found.setdefault(guess.word, guess.probability)
    return {"text": text, "guesses": by_word}

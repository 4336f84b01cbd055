"""What a trained model says of new texts: a JSON-able object for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax

from bert_jax.config import Config, MeshConfig
from bert_jax.inference.fill_mask import fill
from bert_jax.interop.load import Trained, open_trained
from bert_jax.parallel import sharding
from bert_jax.tasks.data import compile_apply, data_section, logits_of, make_splits
from bert_jax.tasks.examples import Example, read, read_typed
from bert_jax.tasks.predictions import predict
from bert_jax.tasks.records import TYPED, decoded, lines_of
from data_pipeline.corpus import mended
from data_pipeline.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 512
"""Examples that are read before the first answer is written."""


def predictions(
    directory: Path, *, file: str | None, lines: Iterable[bytes], batch_size: int, top: int
) -> Iterator[dict[str, Any]]:
    """Of each example in order: of a file that `read` reads, or of `lines`, see `read_typed`.

    A pretrained model takes a text a line, also of a file, and says the `top` likeliest words for each
    [MASK]: fewer where two pieces of its vocabulary are one word, of which the likelier stays.

    Args:
      directory: an exported folder or a workdir.

    Raises:
      FileNotFoundError, UserError: there is no model, or an example cannot be used; names its place.
    """
    trained = open_trained(directory)
    head = trained.config.head
    if head == "pretraining":
        source, found = (file, lines_of(file)) if file else (TYPED, decoded(lines, TYPED))
        for number, line in enumerate(found, 1):
            yield _filled(trained, mended(line).rstrip("\r\n"), where=f"{source} line {number}", top=top)
        return
    task = trained.task
    examples = iter(read(head, file, task, labelled=False)) if file else read_typed(head, lines, task)
    yield from _predicted(trained, examples, batch_size=batch_size)


def _predicted(trained: Trained, examples: Iterator[Example], *, batch_size: int) -> Iterator[dict[str, Any]]:
    config = Config(model=trained.config, data=data_section(trained.task.sequence_length), task=trained.task)
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices()[:1])
    apply = compile_apply(config.model, mesh)
    head = trained.config.head
    assert head != "pretraining"
    cut: list[str] = []
    with jax.set_mesh(mesh):
        while chunk := list(islice(examples, CHUNK)):
            ((_, features),) = make_splits(config, [chunk], trained.tokenizer)
            cut += features.cut
            found = logits_of(features.arrays, trained.params, apply=apply, mesh=mesh, batch_size=batch_size)
            assert found is not None, "nothing stops it"
            yield from predict(head, chunk, features, found[0], labels=config.model.labels, task=config.task)
    if cut:
        log.warning("%s examples are too long and were cut, the first is %s", f"{len(cut):,}", cut[0])


def _filled(trained: Trained, text: str, *, where: str, top: int) -> dict[str, Any]:
    try:
        guesses = fill(trained, text, top=top)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    by_word: list[dict[str, float]] = [{} for _ in guesses]
    for words, found in zip(guesses, by_word, strict=True):
        for guess in words:  # the likeliest first
            found.setdefault(guess.word, guess.probability)
    return {"text": text, "guesses": by_word}

"""What a trained model says of new texts: a JSON-able object for each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jax

from bert_jax import sharding
from bert_jax.config import Config, MeshConfig
from bert_jax.fill_mask import fill
from bert_jax.task_rows import compile_apply, data_section, logits_of, make_splits
from bert_jax.trained import Trained, open_trained
from data_pipeline.config import Head
from data_pipeline.tasks.examples import Example, Question, Text, Words, read
from data_pipeline.tasks.predictions import predict

CHUNK = 512
"""Examples that are read before the first answer is written."""


def predictions(
    directory: Path, *, file: str | None, lines: Iterable[str], batch_size: int, top: int
) -> Iterator[dict[str, Any]]:
    """Of each example in order: of a file that `read` reads, or of `lines`.

    A line is a text; for tokens, words with spaces between them; for qa, a JSON object with `question` and
    `context`. A pretrained model takes lines only, and says the `top` words for each [MASK].

    Args:
      directory: an exported folder or a workdir.

    Raises:
      FileNotFoundError, ValueError: there is no model, or an example cannot be used; names its place.
    """
    trained = open_trained(directory)
    head = trained.config.head
    if head == "pretraining":
        if file is not None:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            yield {"text": line.rstrip("\n")} | _filled(trained, line.rstrip("\n"), number=number, top=top)
        return
    examples = iter(read(head, file, trained.task, labelled=False)) if file else _of_lines(head, lines)
    yield from _predicted(trained, examples, batch_size=batch_size)


def _predicted(trained: Trained, examples: Iterator[Example], *, batch_size: int) -> Iterator[dict[str, Any]]:
    config = Config(model=trained.config, data=data_section(trained.task.sequence_length), task=trained.task)
    mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices()[:1])
    apply = compile_apply(config.model, mesh)
    head = trained.config.head
    assert head != "pretraining"
    with jax.set_mesh(mesh):
        while chunk := list(islice(examples, CHUNK)):
            ((_, features),) = make_splits(config, [chunk], trained.tokenizer)
            found = logits_of(features.arrays, trained.params, apply=apply, mesh=mesh, batch_size=batch_size)
            assert found is not None, "nothing stops it"
            yield from predict(head, chunk, features, found[0], labels=config.model.labels, task=config.task)


def _filled(trained: Trained, text: str, *, number: int, top: int) -> dict[str, Any]:
    try:
        guesses = fill(trained, text, top=top)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    return {"guesses": [{guess.word: guess.probability for guess in words} for words in guesses]}


def _of_lines(head: Head, lines: Iterable[str]) -> Iterator[Example]:
    for number, line in enumerate(lines, 1):
        where = f"line {number}"
        if not line.strip():
            raise ValueError(f"{where} is empty")
        match head:
            case "classification" | "regression":
                yield Text(where, line.rstrip("\n"))
            case "tokens":
                yield Words(where, tuple(line.split()))
            case "qa":
                yield _question(where, line)


def _question(where: str, line: str) -> Question:
    try:
        fields = json.loads(line)
        question, context = fields["question"], fields["context"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{where} is not of the form {{"question": "...", "context": "..."}}') from error
    return Question(where, str(fields.get("id", where)), question, context)

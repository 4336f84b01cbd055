"""A run's weights and tokenizer in a folder for Hugging Face Transformers, with a model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import safetensors.numpy

from bert_jax.config import EmbeddingConfig, LateInteractionConfig, ObjectiveConfig, TaskConfig
from bert_jax.interop import generator, huggingface, multi_vector, sentence_transformers
from bert_jax.interop.huggingface import Tensors
from bert_jax.interop.load import TASK_FIELDS, load_workdir, to_use
from bert_jax.interop.model_card import model_card
from bert_jax.training.network import Network, Params
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.checkpoint import read_mean, read_moving_average
from bert_jax.workdir.inventory import check_has_run, step_to_use, steps_of
from bert_jax.workdir.run_files import load_spec
from data_pipeline import tokenizer
from data_pipeline.errors import UserError

Dtype = Literal["float32", "bfloat16"]


def export(
    workdir: Path,
    *,
    out: Path,
    step: int | None = None,
    dtype: Dtype = "float32",
    masked_lm: bool = False,
    license: str | None = None,
    average: int | None = None,
    ema: bool = False,
    dimensions: int | None = None,
) -> tuple[int, ...]:
    """Writes a run's weights and tokenizer to the new folder `out`, for AutoModel and AutoTokenizer.

    One that was trained for embeddings is for SentenceTransformer too, one of late interaction for
    MultiVectorEncoder and PyLate. The files of a tokenizer that a pretraining was given are those that it was
    given. A discriminator's generator is in the folder `generator` of `out`, with a tokenizer and a card too.

    Args:
      step: of the checkpoint; None: the latest one of a pretraining, the best one of a fine-tuning.
      masked_lm: with a masked-LM head and no other; of a discriminator, its generator alone.
      license: for the model card.
      average: the mean of so many checkpoints, the last ones up to `step`, of a pretraining.
      ema: the exponential moving average that the run has kept.
      dimensions: numbers that are kept of a vector, one of task.dimensions; None: all.

    Returns:
      The steps that were exported: one, or those that were averaged, oldest first.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError, UserError: the workdir has no such checkpoint, or it is of another kind.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; delete it, or give another --out")
    spec, params, steps = _load(workdir, step=step, average=average, ema=ema)
    network = spec.network
    if masked_lm:
        network, params = generator.masked_lm(network, params)
        if not network.objective.PREDICTS_TOKENS:
            raise UserError(f"{workdir} holds a model for {network.settings.kind}, without a masked-LM head")
        network, params = huggingface.only_masked_lm(network, params)
    if dimensions is not None:
        _check_dimensions(dimensions, network.settings)
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for name, (model, tensors) in generator.models(network, params).items():
            card = model_card(
                workdir,
                spec,
                steps=steps,
                ema=ema,
                network=model,
                license=license,
                dimensions=dimensions,
            )
            _write(unfinished / name, model, tensors, workdir=workdir, spec=spec, dtype=dtype, card=card)
        if isinstance(network.settings, EmbeddingConfig):
            sentence_transformers.write(unfinished, network, dimensions=dimensions)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return steps


def _write(
    folder: Path,
    network: Network,
    tensors: Tensors,
    *,
    workdir: Path,
    spec: RunSpec,
    dtype: Dtype,
    card: str,
) -> None:
    """One model with its tokenizer, in a new folder."""
    words = tokenizer.load(workdir / "tokenizer")
    fields = huggingface.to_config(network, special_tokens=words.special_tokens, dtype=dtype)
    has_head = network.objective.HUGGINGFACE_SUFFIX != huggingface.NO_HEAD
    if isinstance(network.settings, TaskConfig) and has_head:  # others have files of their own for that
        noted = {name: getattr(network.settings, name) for name in network.settings.noted}
        fields[TASK_FIELDS] = {"bert-jax": noted}
    if dtype == "bfloat16":
        tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    folder.mkdir(parents=True)
    words.save(folder)
    _note(folder / "tokenizer_config.json", spec, network, is_given=not words.is_ours)
    if isinstance(network.settings, LateInteractionConfig):
        tensors = multi_vector.write(folder, network, tensors, words)
    weights = safetensors.numpy.save(tensors, metadata={"format": "pt"})
    (folder / huggingface.WEIGHTS_FILE).write_bytes(weights)  # save_file would hide it from others
    (folder / huggingface.CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n")
    (folder / "README.md").write_text(card, encoding="utf-8")


def _load(
    workdir: Path, *, step: int | None, average: int | None, ema: bool
) -> tuple[RunSpec, Params, tuple[int, ...]]:
    """Spec and weights of a run, and the steps that they are of."""
    if average is None and not ema:
        spec, params, step = load_workdir(workdir, step=step)
        return spec, params, (step,)
    check_has_run(workdir)
    spec = load_spec(workdir)
    if average is None:
        step = step_to_use(workdir, spec.config) if step is None else step
        params, step = read_moving_average(workdir, spec, step=step)
        return *to_use(spec, params), (step,)
    assert not ema
    if spec.config.task is not None:
        raise UserError(f"{workdir} is a fine-tuning: --average is for a pretraining")
    there = [found for found in steps_of(workdir) if step is None or found <= step]
    if len(there) < average:
        listed = ", ".join(map(str, reversed(there))) or "none"
        until = "" if step is None else f" up to step {step}"
        raise UserError(
            f"--average {average} is more than the checkpoints that {workdir} has{until} ({listed}); "
            "checkpoint.keep and checkpoint.keep_every say how many a run keeps"
        )
    steps = tuple(reversed(there[:average]))
    return *to_use(spec, read_mean(workdir, spec, steps=steps)), steps


def _check_dimensions(dimensions: int, settings: ObjectiveConfig) -> None:
    if not isinstance(settings, EmbeddingConfig):
        raise UserError(f"--dimensions is for embeddings; the model is for {settings.kind}")
    if dimensions not in settings.dimensions:
        trained = ", ".join(map(str, settings.dimensions)) or "none"
        raise UserError(
            f"--dimensions {dimensions} is no size that vectors were trained to be cut to (task.dimensions: "
            f"{trained})"
        )


def _note(file: Path, spec: RunSpec, network: Network, *, is_given: bool) -> None:
    """What Transformers has to know of a tokenizer for the model. One that was given stays as it is."""
    noted: dict[str, Any] = {}
    if not is_given or spec.config.task is not None:  # to which it cuts where it is asked to
        task, longest = spec.config.task, network.model.longest
        noted["model_max_length"] = longest if task is None else task.sequence_length
    is_new = not is_given or spec.config.init.vocabulary == "transplant"
    # The second of two texts would have a type that is past the end.
    if is_new and getattr(network.model, "token_types", 0) < 2:
        noted["model_input_names"] = ["input_ids", "attention_mask"]
    if noted:
        file.write_text(json.dumps(tokenizer.settings(file.parent) | noted, indent=2) + "\n")


def export_every(
    workdir: Path,
    *,
    out: Path,
    dtype: Dtype = "float32",
    masked_lm: bool = False,
    license: str | None = None,
    ema: bool = False,
    dimensions: int | None = None,
) -> list[Path]:
    """Exports each checkpoint that is there, oldest first, to `out/step-N`. Returns the new folders.

    Those of an earlier call stay as they are, so that a series can grow.
    """
    check_has_run(workdir)
    folders = {step: out / f"step-{step}" for step in reversed(steps_of(workdir))}
    new = {step: folder for step, folder in folders.items() if not folder.exists()}
    for step, folder in new.items():
        export(
            workdir,
            out=folder,
            step=step,
            dtype=dtype,
            masked_lm=masked_lm,
            license=license,
            ema=ema,
            dimensions=dimensions,
        )
    return list(new.values())

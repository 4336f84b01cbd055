"""A run's weights and tokenizer in a folder for Hugging Face Transformers, with a model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import ml_dtypes
import safetensors.numpy

from bert_jax.config import Config
from bert_jax.interop import huggingface
from bert_jax.interop.load import TASK, load_workdir
from bert_jax.interop.model_card import model_card
from bert_jax.workdir.checkpoint import check_has_run, steps_of
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import settings

Dtype = Literal["float32", "bfloat16"]

OF_A_TASK = ("text", "pair", "label", "sequence_length", "stride", "longest_answer")
"""What `predict` must know of a fine-tuning, to read and cut texts as it did."""


def export(
    workdir: Path,
    *,
    out: Path,
    step: int | None = None,
    dtype: Dtype = "float32",
    masked_lm: bool = False,
    license: str | None = None,
) -> int:
    """Writes a run's weights and tokenizer to the new folder `out`, for AutoModel and AutoTokenizer.

    Args:
      step: of the checkpoint; None: the latest one of a pretraining, the best one of a fine-tuning.
      masked_lm: as BertForMaskedLM, without the next-sentence head.
      license: for the model card.

    Returns:
      The step that was exported.

    Raises:
      FileExistsError: `out` exists.
      FileNotFoundError, UserError: the workdir has no such checkpoint, or it is of another kind.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists already; delete it, or give another --out")
    config, params, step = load_workdir(workdir, step=step)
    if masked_lm and config.model.head != "pretraining":
        raise UserError(f"{workdir} holds a model for {config.model.head}, without a head for words")
    fields = huggingface.to_config(config.model, dtype=dtype)
    if config.model.head != "pretraining":
        fields[TASK] = {"bert-jax": {name: getattr(config.task, name) for name in OF_A_TASK}}
    tensors = huggingface.to_tensors(config.model, params)
    if masked_lm:
        fields["architectures"] = ["BertForMaskedLM"]
        tensors = {name: a for name, a in tensors.items() if not name.startswith(huggingface.NOT_FOR_WORDS)}
    if dtype == "bfloat16":
        tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in tensors.items()}
    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        shutil.copytree(workdir / "tokenizer", unfinished, dirs_exist_ok=True)
        _note_length(unfinished / "tokenizer_config.json", config)
        weights = safetensors.numpy.save(tensors, metadata={"format": "pt"})
        (unfinished / huggingface.WEIGHTS_FILE).write_bytes(weights)  # save_file would hide it from others
        (unfinished / huggingface.CONFIG_FILE).write_text(json.dumps(fields, indent=2) + "\n")
        card = model_card(
            workdir, config, step=step, architecture=fields["architectures"][0], license=license
        )
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return step


def _note_length(file: Path, config: Config) -> None:
    """`model_max_length`, to which Transformers cuts where it is asked to: the rows of the fine-tuning."""
    length = config.model.max_position_embeddings
    if config.model.head != "pretraining":
        length = config.task.sequence_length
    fields = settings(file.parent) | {"model_max_length": length}
    file.write_text(json.dumps(fields, indent=2) + "\n")


def export_every(
    workdir: Path, *, out: Path, dtype: Dtype = "float32", masked_lm: bool = False, license: str | None = None
) -> list[Path]:
    """`export` of each checkpoint that is there, oldest first, to `out/step-N`. Returns the new folders.

    Those of an earlier call stay as they are, so that a series can grow.
    """
    check_has_run(workdir)
    folders = {step: out / f"step-{step}" for step in reversed(steps_of(workdir))}
    new = {step: folder for step, folder in folders.items() if not folder.exists()}
    for step, folder in new.items():
        export(workdir, out=folder, step=step, dtype=dtype, masked_lm=masked_lm, license=license)
    return list(new.values())

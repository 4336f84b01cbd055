"""The files that make a folder of Hugging Face one of late interaction: a vector for each token.

Written as PyLate has them (its version 1, whose class is ColBERT), which Sentence Transformers 6 opens as a
MultiVectorEncoder too; read also as that saves them.
"""

from __future__ import annotations

import dataclasses
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from bert_jax.config import EncoderConfig, LateInteractionConfig
from bert_jax.interop import sentence_transformers
from bert_jax.interop.sentence_transformers import SHORTEST, USE_FILE, check, longest
from bert_jax.tasks import late_interaction
from bert_jax.training.network import Network
from data_pipeline.config import read_object
from data_pipeline.errors import UserError, require
from data_pipeline.tokenizer import Tokenizer

Tensors = dict[str, np.ndarray]

KINDS = ("ColBERT", "MultiVectorEncoder")
"""What PyLate and Sentence Transformers call such a model."""

OF_PYLATE = "query_prefix"
"""A field of each folder of PyLate: the first ones do not say what kind of model they are of."""

MODULES = (
    ("Transformer", "Dense"),
    ("Transformer", "Dense", "MultiVectorMask", "Normalize"),
)
"""Classes of the modules, in order: PyLate's, and those of Sentence Transformers."""

LIBRARIES = ("sentence_transformers.", "pylate.")

PROJECTION = f"{late_interaction.PROJECTION}.weight"
IDENTITY = "torch.nn.modules.linear.Identity"
DENSE = "1_Dense"
DENSE_WEIGHTS = "model.safetensors"

PUNCTUATION = list(string.punctuation)

USUAL_LENGTHS = {"query_length": 32, "document_length": 180}
"""What PyLate takes where nothing is said."""


def is_folder(directory: Path) -> bool:
    file = directory / USE_FILE
    fields = read_object(file) if file.is_file() else {}
    return fields.get("model_type") in KINDS or OF_PYLATE in fields


# Read


def load_network(directory: Path, encoder: Network) -> Network:
    """The encoder of a folder with its projection; how it is used, says `read`.

    Raises:
      FileNotFoundError, UserError: the files are damaged, or the projection cannot be run here.
    """
    file = _dense(directory) / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{directory} has no {file.parent.name}/config.json, of the module Dense")
    fields = read_object(file)
    for name, value, known in (
        ("in_features", fields.get("in_features"), encoder.model.hidden_size),
        ("bias", fields.get("bias", True), False),
        ("activation_function", fields.get("activation_function"), IDENTITY),
        ("module_input_name", fields.get("module_input_name", "token_embeddings"), "token_embeddings"),
        ("use_residual", fields.get("use_residual", False), False),
    ):
        check(file, "Dense", name, value, known)
    dimensions = fields.get("out_features")
    if not isinstance(dimensions, int):
        raise UserError(f"{file} has out_features {dimensions!r}, which is no size of a vector")
    return Network(encoder.model, late_interaction, LateInteractionConfig(dimensions=dimensions))


def load_projection(directory: Path) -> Tensors:
    """Its weights, by the name that they have here. Raises as `load_network` does."""
    file = weights_file(directory)
    if not file.is_file():
        raise FileNotFoundError(f"{directory} has no {file.relative_to(directory)}, of the module Dense")
    try:
        return dict(safetensors.numpy.load_file(file))
    except safetensors.SafetensorError as error:
        raise UserError(f"{file} is damaged ({error})") from error


def weights_file(directory: Path) -> Path:
    """With the weights of the projection."""
    return _dense(directory) / DENSE_WEIGHTS


def _dense(directory: Path) -> Path:
    return _folders(directory)["Dense"]


def _folders(directory: Path) -> dict[str, Path]:
    return sentence_transformers.module_folders(directory, known=MODULES, libraries=LIBRARIES)


def read(
    directory: Path, settings: LateInteractionConfig, *, model: EncoderConfig, tokenizer: Tokenizer
) -> LateInteractionConfig:
    """`settings` with what the files of a folder say of lengths, prompts, expansion and punctuation.

    Raises:
      UserError: they are damaged, or ask for what cannot be run here.
    """
    folders = _folders(directory)
    encoder = sentence_transformers.encoder_fields(directory, tokenizer)
    prompts, use = sentence_transformers.use_fields(directory, *KINDS)
    if "MultiVectorMask" in folders:
        file = folders["MultiVectorMask"] / "config.json"
        mask = read_object(file) if file.is_file() else {}
        for name, usual in (("skiplist_tasks", ["document"]), ("keep_only_token_ids", None)):
            check(file, "MultiVectorMask", name, mask.get(name) or usual, usual)
        sentence_transformers.check_normalize(folders["Normalize"] / "config.json", "token_embeddings")
        lengths, skipped = _said(encoder), mask.get("skiplist_words") or []
        expansion = encoder.get("query_expansion")
    else:
        lengths, skipped = USUAL_LENGTHS | _said(use), use.get("skiplist_words")
        expansion = _of_pylate(lengths)
    skipped = PUNCTUATION if skipped is None else skipped
    if expansion is not None:
        _check_expansion(directory, expansion, tokenizer)
    require(
        skipped in ([], PUNCTUATION),
        f"{directory} leaves out the words {skipped!r}; known is punctuation ({string.punctuation})",
    )
    most = encoder.get("max_seq_length") or longest(model, tokenizer)
    query = expansion.get("length") if expansion else lengths.get("query_length", most)
    document = lengths.get("document_length", most)
    for name, length in (("query_length", query), ("document_length", document)):
        if not isinstance(length, int) or length < SHORTEST:
            raise UserError(
                f"{directory} has {name} {length!r}; it must be a whole number, at least {SHORTEST}"
            )
    return dataclasses.replace(
        settings,
        query_length=min(query, model.longest),
        sequence_length=min(document, model.longest),
        query_expansion=expansion is not None,
        query_prompt=_prompt(directory, "query", prompts, use),
        document_prompt=_prompt(directory, "document", prompts, use),
        skip_punctuation=bool(skipped),
    )


def _said(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _of_pylate(use: dict[str, Any]) -> dict[str, Any] | None:
    """The expansion of queries, as Sentence Transformers has it."""
    if use.get("do_query_expansion") is False:
        return None
    attend = bool(use.get("attend_to_expansion_tokens"))
    return {"strategy": "fixed", "attend": attend, "length": use["query_length"]}


def _check_expansion(directory: Path, expansion: dict[str, Any], tokenizer: Tokenizer) -> None:
    for name, value, known in (
        ("strategy", expansion.get("strategy"), ("fixed",)),
        ("attend", expansion.get("attend", False), (True,)),
        ("token", expansion.get("token"), (None, tokenizer.mask_token)),
    ):
        require(
            value in known,
            f"{directory} expands queries with {name} {json.dumps(value)}; known is {json.dumps(known[0])}",
        )


def _prompt(directory: Path, role: str, prompts: dict[str, str], use: dict[str, Any]) -> str:
    """What stands in front of a text: a prefix, which is a piece, or a prompt, which is a text."""
    prefix = use.get(f"{role}_prefix") or ""
    prompt = (prompts.get(role) or "").removeprefix(prefix)
    require(
        not (prefix and prompt),
        f"{directory / USE_FILE} has {role}_prefix {prefix!r} and a prompt {prompt!r}; known is one of them",
    )
    return prefix or prompt


# Write


def write(directory: Path, network: Network, tensors: Tensors, tokenizer: Tokenizer) -> Tensors:
    """Writes the files beside those of the encoder. Returns the tensors of that."""
    settings = network.settings
    assert isinstance(settings, LateInteractionConfig)
    asked = {"query": settings.query_prompt, "document": settings.document_prompt}
    is_piece = {
        role: late_interaction.marker(tokenizer, prompt) is not None for role, prompt in asked.items()
    }
    use = {
        "model_type": KINDS[0],
        "prompts": {role: prompt for role, prompt in asked.items() if not is_piece[role]},
        "default_prompt_name": None,
        "similarity_fn_name": "MaxSim",
        **{f"{role}_prefix": prompt if is_piece[role] else "" for role, prompt in asked.items()},
        "query_length": settings.query_length,
        "document_length": settings.sequence_length,
        "do_query_expansion": settings.query_expansion,
        "attend_to_expansion_tokens": settings.query_expansion,
        "skiplist_words": PUNCTUATION if settings.skip_punctuation else [],
    }
    dense = {
        "in_features": network.model.hidden_size,
        "out_features": settings.dimensions,
        "bias": False,
        "activation_function": IDENTITY,
    }
    modules = ("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense")
    sentence_transformers.write_files(directory, network, modules, use, {f"{DENSE}/config.json": dense})
    weights = safetensors.numpy.save({PROJECTION: tensors[PROJECTION]}, metadata={"format": "pt"})
    (directory / DENSE / DENSE_WEIGHTS).write_bytes(weights)
    return {name: array for name, array in tensors.items() if name != PROJECTION}

"""Weights to and from Hugging Face's BERT: one name table, both directions.

Reads and writes safetensors and JSON only; nothing from a checkpoint is ever executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from bert_jax.config import ModelConfig
from bert_jax.models import bert as model
from bert_jax.models.bert import Params
from data_pipeline.config import read_object
from data_pipeline.errors import UserError

Tensors = dict[str, np.ndarray]

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
"""Of weights in several files: which tensor is in which."""

CONFIG_FIELDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
)
"""Fields of ModelConfig that Hugging Face's BertConfig has under the same name."""


class Name(NamedTuple):
    """A parameter here and there."""

    ours: str
    """Path in our params, with dots."""
    theirs: str
    """Name of the tensor; `{}` stands for the layer, whose slices are stacked on our first axis."""


def _dense(ours: str, theirs: str) -> list[Name]:
    return [Name(f"{ours}.kernel", f"{theirs}.weight"), Name(f"{ours}.bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Name]:
    return [Name(f"{ours}.scale", f"{theirs}.weight"), Name(f"{ours}.bias", f"{theirs}.bias")]


ENCODER = [
    Name("embeddings.word", "bert.embeddings.word_embeddings.weight"),
    Name("embeddings.position", "bert.embeddings.position_embeddings.weight"),
    Name("embeddings.token_type", "bert.embeddings.token_type_embeddings.weight"),
    *_norm("embeddings.norm", "bert.embeddings.LayerNorm"),
    *_dense("layers.query", "bert.encoder.layer.{}.attention.self.query"),
    *_dense("layers.key", "bert.encoder.layer.{}.attention.self.key"),
    *_dense("layers.value", "bert.encoder.layer.{}.attention.self.value"),
    *_dense("layers.attention_output", "bert.encoder.layer.{}.attention.output.dense"),
    *_norm("layers.attention_norm", "bert.encoder.layer.{}.attention.output.LayerNorm"),
    *_dense("layers.intermediate", "bert.encoder.layer.{}.intermediate.dense"),
    *_dense("layers.output", "bert.encoder.layer.{}.output.dense"),
    *_norm("layers.output_norm", "bert.encoder.layer.{}.output.LayerNorm"),
]
POOLER = _dense("pooler", "bert.pooler.dense")

HEADS = {
    "pretraining": [
        *POOLER,
        *_dense("mlm_transform", "cls.predictions.transform.dense"),
        *_norm("mlm_norm", "cls.predictions.transform.LayerNorm"),
        Name("mlm_bias", "cls.predictions.bias"),
        *_dense("nsp", "cls.seq_relationship"),
    ],
    "classification": [*POOLER, *_dense("classifier", "classifier")],
    "regression": [*POOLER, *_dense("classifier", "classifier")],
    "tokens": _dense("classifier", "classifier"),
    "qa": _dense("classifier", "qa_outputs"),
}
"""By model.head. The MLM decoder is not here: it is tied, and Hugging Face ties it when it loads."""

NOT_FOR_WORDS = ("bert.pooler.", "cls.seq_relationship.")
"""Starts of the names of what BertForMaskedLM does not have."""

PARTS = ("bert.pooler.", "cls.predictions.", "cls.seq_relationship.", "classifier.", "qa_outputs.")
"""Starts of the names of what is not the encoder: each is there as a whole, or not at all."""

ARCHITECTURES = {
    "pretraining": "BertForPreTraining",
    "classification": "BertForSequenceClassification",
    "regression": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "qa": "BertForQuestionAnswering",
}
"""Transformers' class for each model.head."""

TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


OLDER = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
"""Ends of names that the published bert-base-uncased, and others of its time, still have."""


def to_tensors(config: ModelConfig, params: Params) -> Tensors:
    """Our parameters under Hugging Face's names, in PyTorch's layout, without the vocabulary's padding."""
    tensors: Tensors = {}
    for name in ENCODER + HEADS[config.head]:
        array = np.asarray(_get(params, name.ours))
        if name.ours in ("embeddings.word", "mlm_bias"):
            array = array[: config.vocab_size]
        if name.ours.endswith(".kernel"):
            array = array.swapaxes(-1, -2)
        slices = {name.theirs.format(i): a for i, a in enumerate(array)} if "{}" in name.theirs else None
        tensors |= slices or {name.theirs: array}
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def from_tensors(config: ModelConfig, tensors: Tensors, *, may_lack: Sequence[str] = ()) -> Params:
    """Hugging Face's tensors as our parameters, float32. Names may lack the prefix `bert.` (BertModel).

    Args:
      may_lack: those of `PARTS` that may be missing, each as a whole, and are left out then.

    Raises:
      UserError: a tensor is missing, is not known, or has another shape; names it.
    """
    tensors = {_current(name): array for name, array in tensors.items()}
    if not any(name.startswith("bert.") for name in tensors):
        on_top = ("cls.", "classifier.", "qa_outputs.")
        tensors = {name if name.startswith(on_top) else f"bert.{name}": a for name, a in tensors.items()}
    shapes = jax.eval_shape(lambda: model.init_params(config, jax.random.key(0)))
    params: Params = {}
    used = {*TIED, "bert.embeddings.position_ids"}
    if config.head in ("tokens", "qa"):  # older ones have a pooler, which they do not use
        used |= {name.theirs for name in POOLER}
    for copy, original in TIED.items():
        if copy in tensors and not np.array_equal(tensors[copy], tensors.get(original, ())):
            raise UserError(f"the tensor {copy} differs from {original}, which it is tied to here")
    for name in ENCODER + HEADS[config.head]:
        layers = range(config.num_hidden_layers) if "{}" in name.theirs else [0]
        theirs = [name.theirs.format(i) for i in layers]
        used.update(theirs)
        part = next((part for part in may_lack if name.theirs.startswith(part)), None)
        if part and not any(n.startswith(part) for n in tensors):
            continue
        missing = [n for n in theirs if n not in tensors]
        if missing:
            raise UserError(f"the weights have no tensor {missing[0]}")
        whole = _get(shapes, name.ours).shape
        wanted = whole[1:] if "{}" in name.theirs else whole
        arrays = [_fitted(config, name, n, tensors[n], wanted) for n in theirs]
        array = np.stack(arrays) if "{}" in name.theirs else arrays[0]
        _set(params, name.ours, array)
    unknown = sorted(set(tensors) - used)
    if unknown:
        raise UserError(f"the weights have a tensor {unknown[0]} that BERT does not have")
    return params


def _fitted(
    config: ModelConfig, name: Name, theirs: str, tensor: np.ndarray, wanted: tuple[int, ...]
) -> np.ndarray:
    """One tensor in our layout, the vocabulary padded. Raises UserError if it has another shape."""
    array = tensor.T if name.ours.endswith(".kernel") else tensor
    surplus = 0
    if name.ours in ("embeddings.word", "mlm_bias"):
        surplus = config.padded_vocab_size - config.vocab_size
        wanted = (config.vocab_size, *wanted[1:])
    if array.shape != wanted:
        raise UserError(f"the tensor {theirs} has shape {tensor.shape}, which does not fit the model")
    return np.pad(array, [(0, surplus)] + [(0, 0)] * (array.ndim - 1)).astype(np.float32)


def _current(name: str) -> str:
    return next((name.removesuffix(old) + new for old, new in OLDER.items() if name.endswith(old)), name)


def to_config(config: ModelConfig, *, dtype: str = "float32") -> dict[str, Any]:
    """The content of Hugging Face's config.json."""
    fields: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.head]],
        "model_type": "bert",
        "dtype": dtype,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    } | {name: getattr(config, name) for name in CONFIG_FIELDS}
    match config.head:
        case "classification":
            fields["problem_type"] = "single_label_classification"
        case "regression":
            fields |= {"problem_type": "regression", "num_labels": 1}
    if config.labels:
        fields["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        fields["label2id"] = {label: i for i, label in enumerate(config.labels)}
    return fields


def from_config(fields: dict[str, Any]) -> ModelConfig:
    """A ModelConfig from the content of Hugging Face's config.json.

    Raises:
      UserError: it is not of a BERT that we can run.
    """
    if fields.get("model_type") != "bert":
        raise UserError(f"config.json is of a {fields.get('model_type')!r} model, not of a bert")
    for name, known in {"position_embedding_type": "absolute", "is_decoder": False}.items():
        if fields.get(name, known) != known:
            raise UserError(f"config.json has {name} {fields[name]!r}; known is {known!r}")
    missing = [name for name in CONFIG_FIELDS if name not in fields]
    if missing:
        raise UserError(f"config.json has no {missing[0]}")
    known = {"gelu", "gelu_new", "relu"}
    act = {"gelu_pytorch_tanh": "gelu_new"}.get(fields["hidden_act"], fields["hidden_act"])
    if act not in known:
        raise UserError(f"config.json has hidden_act {act!r}; known are {', '.join(sorted(known))}")
    head, labels = _head(fields)
    ours = {name: fields[name] for name in CONFIG_FIELDS}
    return ModelConfig(**ours | {"hidden_act": act, "head": head, "labels": labels})


def _head(fields: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """model.head and model.labels. What is not for a task is taken for pretraining, parts of it lacking."""
    if fields.get("problem_type") == "multi_label_classification":
        raise UserError("config.json has problem_type multi_label_classification: a text has one label here")
    architecture = (fields.get("architectures") or [""])[0]
    head = next((ours for ours, theirs in ARCHITECTURES.items() if theirs == architecture), "pretraining")
    if head not in ("classification", "tokens"):
        return head, ()
    by_id = fields.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # which they leave out for two
    labels = tuple(str(by_id[key]) for key in sorted(by_id, key=int))
    if fields.get("problem_type") == "regression" or (head == "classification" and len(labels) == 1):
        return "regression", ()
    return head, labels


def load(directory: Path) -> tuple[ModelConfig, Params]:
    """Model and parameters of a directory that `export` or Hugging Face's save_pretrained wrote.

    A BertForMaskedLM says nothing of next sentences: pooler and head are zeros then.

    Raises:
      FileNotFoundError, UserError: it has no config.json or model.safetensors, or they do not fit.
    """
    config = load_config(directory)
    may_lack = NOT_FOR_WORDS if config.head == "pretraining" else ()
    params = from_tensors(config, load_tensors(directory), may_lack=may_lack)
    shapes = jax.eval_shape(lambda: model.init_params(config, jax.random.key(0)))
    lacking = {name: shape for name, shape in shapes.items() if name not in params}
    return config, params | jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), lacking)


def load_config(directory: Path) -> ModelConfig:
    """Raises as `load` does."""
    if not (directory / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{directory} has no {CONFIG_FILE}")
    return from_config(read_object(directory / CONFIG_FILE))


def load_tensors(directory: Path) -> Tensors:
    """Under Hugging Face's names. Raises as `load` does."""
    tensors: Tensors = {}
    for file in _weights_files(directory):
        try:
            tensors |= safetensors.numpy.load_file(file)
        except safetensors.SafetensorError as error:
            raise UserError(f"{file} is damaged ({error})") from error
    return tensors


def _weights_files(directory: Path) -> list[Path]:
    """One, or those that the index of a large model names."""
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    index = directory / INDEX_FILE
    if not index.is_file():
        advice = ""
        if (directory / "pytorch_model.bin").exists():
            advice = (
                "; pytorch_model.bin is a pickle, which could run code: have Transformers save it again "
                "with save_pretrained, as safetensors"
            )
        raise FileNotFoundError(f"{directory} has no {WEIGHTS_FILE}{advice}")
    files_of = read_object(index).get("weight_map")
    names = files_of.values() if isinstance(files_of, dict) else [None]
    for name in names:
        # A file of this folder, not a way out of it.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{index} names {name!r} as a file of weights")
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory} has no {name}, which {INDEX_FILE} names")
    return [directory / name for name in sorted(set(names))]


def _get(tree: Params, path: str) -> Any:
    for key in path.split("."):
        tree = tree[key]
    return tree


def _set(tree: Params, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value

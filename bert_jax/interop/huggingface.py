"""Weights to and from Hugging Face: the mechanism. The names are declared where the parameters are (models/).

Reads and writes safetensors and JSON only; nothing from a checkpoint is ever executed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from bert_jax import models, objectives, tasks
from bert_jax.config import EncoderConfig, ObjectiveConfig
from bert_jax.interop import multi_vector, sentence_transformers
from bert_jax.models.encoder import Encoder, HuggingFace
from bert_jax.objectives import mlm, rtd
from bert_jax.objectives.objective import Objective
from bert_jax.training.network import Network, Parameter, Params, parameters
from data_pipeline.config import read_object
from data_pipeline.errors import UserError
from data_pipeline.special_tokens import SpecialTokens

Tensors = dict[str, np.ndarray]

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
"""Which tensor is in which file, where weights are in several."""

NO_HEAD = "Model"
"""The suffix of a class without a head, such as BertModel: names of tensors lack the encoder's prefix."""


def to_tensors(network: Network, params: Params) -> Tensors:
    """Our parameters under Hugging Face's names, in PyTorch's layout, without the vocabulary's padding."""
    tensors: Tensors = {}
    for path, parameter in jax.tree.leaves_with_path(parameters(network)):
        array = np.asarray(_get(params, path))
        if "vocab" in parameter.logical_axes:
            array = array[: network.model.vocab_size]
        if "parts" in parameter.logical_axes:  # the last but one
            array = array.reshape(*array.shape[:-2], -1)
        if parameter.transposed:
            array = array.swapaxes(-1, -2)
        layers = array if parameter.is_stacked else [array]
        tensors |= zip(tensor_names(parameter), layers, strict=True)
    prefix = (
        network.encoder.HUGGINGFACE.base_prefix if network.objective.HUGGINGFACE_SUFFIX == NO_HEAD else ""
    )
    return {name.removeprefix(prefix): np.ascontiguousarray(array) for name, array in tensors.items()}


def from_tensors(
    network: Network, tensors: Tensors, *, head_may_lack: bool = False, ignored: Collection[str] = ()
) -> Params:
    """Hugging Face's tensors as our parameters, float32. Names may lack the encoder's prefix (BertModel).

    Args:
      head_may_lack: parts of the head may be missing, each as a whole, and are left out then. Otherwise all
        must be there.
      ignored: names of tensors that may be there and are not used.

    Raises:
      UserError: a tensor is missing, is not known, or has another shape; names it.
    """
    names = network.encoder.HUGGINGFACE
    declared = jax.tree.leaves_with_path(parameters(network))
    known = {name for _, parameter in declared for name in tensor_names(parameter)}
    known |= {*names.tied, *names.unused, *ignored}
    tensors = {_current(name, names.legacy_suffixes): array for name, array in tensors.items()}
    if not any(name.startswith(names.base_prefix) for name in tensors):
        prefixed = {name: f"{names.base_prefix}{name}" for name in tensors}
        tensors = {prefixed[name] if prefixed[name] in known else name: a for name, a in tensors.items()}
    for copy, original in names.tied.items():
        if copy in tensors and not np.array_equal(tensors[copy], tensors.get(original, ())):
            raise UserError(f"the tensor {copy} differs from {original}, which it is tied to here")
    present = {_part(path) for path, p in declared if any(name in tensors for name in tensor_names(p))}
    params: Params = {}
    for path, parameter in declared:
        if head_may_lack and path[0].key == "objective" and _part(path) not in present:
            continue
        wanted = tensor_names(parameter)
        if missing := [name for name in wanted if name not in tensors]:
            raise UserError(f"the weights have no tensor {missing[0]}")
        arrays = [_fitted(network.model, parameter, name, tensors[name]) for name in wanted]
        _set(params, path, np.stack(arrays) if parameter.is_stacked else arrays[0])
    if unknown := sorted(tensors.keys() - known):
        raise UserError(
            f"the weights have a tensor {unknown[0]} that {network.huggingface_class} does not have"
        )
    return params


def _part(path: Any) -> tuple[str, ...]:
    """The part of the network that a parameter belongs to: there as a whole, or not at all."""
    return tuple(key.key for key in path[:2])


def tensor_names(parameter: Parameter) -> list[str]:
    """The names of the tensors that make it: one for each layer if it is stacked."""
    if isinstance(parameter.depth, int):
        return [parameter.huggingface]
    return [parameter.huggingface.format(depth - 1) for depth in parameter.depth]


def _fitted(config: EncoderConfig, parameter: Parameter, name: str, tensor: np.ndarray) -> np.ndarray:
    """One tensor in our layout, the vocabulary padded. Raises UserError if it has another shape."""
    array = tensor.T if parameter.transposed else tensor
    wanted = parameter.shape[1:] if parameter.is_stacked else parameter.shape
    surplus = 0
    if "vocab" in parameter.logical_axes:
        surplus = config.padded_vocab_size - config.vocab_size
        wanted = (config.vocab_size, *wanted[1:])
    if "parts" in parameter.logical_axes and tensor.size == math.prod(wanted):
        array = array.reshape(wanted)
    if array.shape != wanted:
        shape = wanted[::-1] if parameter.transposed else wanted
        raise UserError(f"the tensor {name} has shape {tensor.shape}, but {shape} is what config.json gives")
    if not np.isfinite(array).all():
        raise UserError(f"the tensor {name} has numbers that are not finite")
    return np.pad(array, [(0, surplus)] + [(0, 0)] * (array.ndim - 1)).astype(np.float32)


def _current(name: str, legacy_suffixes: Any) -> str:
    for old, new in legacy_suffixes.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def to_config(
    network: Network, *, special_tokens: SpecialTokens | None = None, dtype: str = "float32"
) -> dict[str, Any]:
    """The content of Hugging Face's config.json. Without `special_tokens` it does not tell their ids."""
    names = network.encoder.HUGGINGFACE
    token_ids = token_id_fields(names, special_tokens) if special_tokens else {}
    fields = {
        "architectures": [network.huggingface_class],
        "model_type": names.model_type,
        "dtype": dtype,
        **names.constants,
        **token_ids,
        **{names.renamed.get(name, name): getattr(network.model, name) for name in names.fields},
        **names.written_fields(network.model),
    }
    task = next((task for task in tasks.TASKS if network.objective is task), None)
    return fields | (task.to_huggingface(network.settings) if task else {})


def token_id_fields(names: HuggingFace, special_tokens: SpecialTokens) -> dict[str, int]:
    """Ids of special tokens as the config.json of a family of encoders has them."""
    return {field: getattr(special_tokens, role) for field, role in names.token_ids.items()}


def from_config(fields: dict[str, Any]) -> Network:
    """The network that the content of Hugging Face's config.json is of.

    Raises:
      UserError: it is not of an encoder that we can run.
    """
    kind = fields.get("model_type") or _type_of_early_days(fields)
    encoder = next((found for found in models.MODELS if found.HUGGINGFACE.model_type == kind), None)
    if encoder is None:
        known = ", ".join(found.HUGGINGFACE.model_type for found in models.MODELS)
        what = f"is of a {kind!r} model" if kind else "has no model_type: if it is of a known one, add it"
        raise UserError(f"config.json {what}; known are {known}")
    names = encoder.HUGGINGFACE
    for name, value in names.required.items():
        if fields.get(name, value) != value:
            raise UserError(f"config.json has {name} {fields[name]!r}; known is {value!r}")
    given = names.read_fields(fields)
    try:
        # Transformers has the same defaults for what is missing, and need not write them; null is as much.
        keys = {n: names.renamed.get(n, n) for n in names.fields}
        values = {n: given[key] for n, key in keys.items() if given.get(key) is not None}
        model = encoder.Config(**{n: names.values.get(n, {}).get(v, v) for n, v in values.items()})
    except (UserError, TypeError) as error:  # a list is no key
        raise UserError(f"config.json does not fit: {error}") from error
    return Network(model, *_objective(encoder, fields))


_OF_OTHERS = {"embedding_size", "inner_group_num", "relative_attention", "max_relative_position"}
"""What ELECTRA, ALBERT, DeBERTa and NEZHA have beside the fields of a BERT; RoBERTa has one token type."""


def _type_of_early_days(fields: dict[str, Any]) -> str | None:
    """A BERT, if config.json was written before there were models of other types; None otherwise."""
    named = str(fields.get("architectures") or ["Bert"])
    is_bert = {"hidden_size", "num_hidden_layers", "type_vocab_size", "vocab_size"} <= fields.keys()
    is_other = fields.get("type_vocab_size") == 1 or bool(_OF_OTHERS & fields.keys())
    return "bert" if is_bert and not is_other and named.startswith("['Bert") else None


def _objective(encoder: Encoder, fields: dict[str, Any]) -> tuple[Objective, ObjectiveConfig]:
    """The task, or else the objective, of the class that config.json names.

    A class that nothing here exports, such as BertModel, counts as one for masked tokens, with parts lacking.
    """
    architectures = fields.get("architectures") or [""]
    if not isinstance(architectures, list) or not isinstance(architecture := architectures[0], str):
        raise UserError(
            f"config.json has architectures {architectures!r}; known are names of classes in a list"
        )
    suffix = architecture.removeprefix(encoder.HUGGINGFACE.class_prefix)
    for task in tasks.TASKS:
        if settings := task.from_huggingface(suffix, fields):
            return task, settings
    for objective in objectives.OBJECTIVES:
        # ELECTRA's class of this suffix is for another objective.
        has_heads = objective.refuses(objective.Config(), encoder, None) is None
        if suffix == objective.HUGGINGFACE_SUFFIX and has_heads:
            return objective, rtd.DISCRIMINATOR_ALONE if objective is rtd else objective.Config()
    return mlm, mlm.Config()


def only_masked_lm(network: Network, params: Params) -> tuple[Network, Params]:
    """The network with its masked-LM head and no other, as BertForMaskedLM."""
    slim = network._replace(objective=mlm, settings=mlm.Config())
    head = {name: params["objective"][name] for name in parameters(slim)["objective"]}
    return slim, params | {"objective": head}


def load(directory: Path) -> tuple[Network, Params]:
    """Network and parameters of a directory that `export` or Hugging Face's save_pretrained wrote.

    Raises:
      FileNotFoundError, UserError: it has no config.json or model.safetensors, or they do not fit.
    """
    network = load_network(directory)
    return network, from_tensors(network, load_tensors(directory))


def load_encoder(directory: Path) -> tuple[Network, Params]:
    """The same of which only the encoder's parameters are wanted: those of a head may be missing."""
    network = load_network(directory)
    params = from_tensors(network, load_tensors(directory), head_may_lack=True)
    return network, {"encoder": params["encoder"]}


def load_network(directory: Path) -> Network:
    """Raises as `load` does."""
    if not (directory / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"{directory} has no {CONFIG_FILE}")
    fields = read_object(directory / CONFIG_FILE) | sentence_transformers.cross_encoder_fields(directory)
    network = from_config(fields)
    return multi_vector.load_network(directory, network) if multi_vector.is_folder(directory) else network


def load_tensors(directory: Path) -> Tensors:
    """Under Hugging Face's names. Raises as `load` does."""
    tensors: Tensors = {}
    for file in _weights_files(directory):
        try:
            tensors |= safetensors.numpy.load_file(file)
        except safetensors.SafetensorError as error:
            raise UserError(f"{file} is damaged ({error})") from error
    return tensors | (multi_vector.load_projection(directory) if multi_vector.is_folder(directory) else {})


def weights_files(directory: Path) -> list[str]:
    """The names of the files that say what the weights are. Raises as `load` does."""
    files = _weights_files(directory)
    if multi_vector.is_folder(directory):
        files.append(multi_vector.weights_file(directory))
    return [CONFIG_FILE, *(str(file.relative_to(directory)) for file in files)]


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


def _get(tree: Params, path: Any) -> Any:
    for key in path:
        tree = tree[key.key]
    return tree


def _set(tree: Params, path: Any, value: Any) -> None:
    *parents, last = path
    for key in parents:
        tree = tree.setdefault(key.key, {})
    tree[last.key] = value

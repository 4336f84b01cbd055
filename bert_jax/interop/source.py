"""A source of weights: a folder of Hugging Face, one of google-research/bert, or another run's workdir.

Safetensors, TensorFlow's checkpoints and Orbax's: numbers and JSON, nothing that could run code.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bert_jax.config import Config, LateInteractionConfig, TaskConfig
from bert_jax.interop import generator, huggingface, multi_vector, sentence_transformers, tensorflow_v1
from bert_jax.parallel.processes import from_process_0, wait_until_visible
from bert_jax.training.network import Network, Params, parameters
from bert_jax.workdir.checkpoint import PARAMS, read_params
from bert_jax.workdir.digests import digest_of
from bert_jax.workdir.inventory import checkpoints_of, step_to_use, steps_of
from bert_jax.workdir.run_files import load_spec
from data_pipeline import tokenizer
from data_pipeline.errors import UserError
from data_pipeline.storage import dataset_folder
from data_pipeline.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CASE_PROBE = "The Café of PARIS"
"""Is cut otherwise by a tokenizer that keeps the case than by one that lowers it."""


def source_network(source: Path, *, field: str = "init.source") -> Network:
    """The network that the weights of a source are of.

    Args:
      field: of the config, which names the source.

    Raises:
      FileNotFoundError, UserError: there are no weights, or they are damaged.
    """
    if is_run(source):
        return load_spec(source).network
    if (source / "checkpoints").is_dir():
        raise FileNotFoundError(f"{field} {source} is a run that has no checkpoint yet")
    try:
        return _format(source).load_network(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{field}: {error}") from error
    except UserError as error:
        raise UserError(f"{field} {source}: {error}") from error


def source_generator(source: Path) -> Network | None:
    """The generator that is trained or stored with a discriminator. Raises as `source_network` does."""
    if is_run(source):
        return load_spec(source).network.generator
    folder = generator.folder_of(source)
    return None if folder is None else generator.load_network(source, folder)


def source_task(source: Path, words: Tokenizer) -> TaskConfig | None:
    """How a source is used, as far as it says it; None if it was not trained for a task.

    Args:
      words: its tokenizer.

    Raises:
      FileNotFoundError, UserError: as `source_network` does; or it asks for what cannot be run here.
    """
    network = source_network(source)
    settings = network.settings if isinstance(network.settings, TaskConfig) else None
    if is_run(source):
        return settings
    try:
        if isinstance(settings, LateInteractionConfig):
            return multi_vector.read(source, settings, model=network.model, tokenizer=words)
        if sentence_transformers.is_folder(source):
            return sentence_transformers.read(source, model=network.model, tokenizer=words).settings
    except UserError as error:
        raise UserError(f"init.source {source}: {error}") from error
    return settings


def is_run(source: Path) -> bool:
    """Whether it is a workdir with a checkpoint; on all processes, of which some may see its files late.

    The run before, of an earlier phase, has ended a moment ago, and process 0 has written it.
    """
    return from_process_0(lambda: bool(steps_of(source))) and wait_until_visible(
        lambda: bool(steps_of(source))
    )


def step_of(source: Path) -> int | None:
    """The checkpoint of a run whose weights are taken; None: the latest."""
    return from_process_0(lambda: step_to_use(source, load_spec(source).config))


def source_tokenizer(source: Path) -> Path:
    """The folder of its tokenizer."""
    return source / "tokenizer" if steps_of(source) else source


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Into a folder that may be there already, for Hugging Face's AutoTokenizer."""
    tokenizer.load(source_tokenizer(source)).save(directory)


def check_tokenizer(source: Path, config: Config, *, field: str = "init.source") -> None:
    """Raises UserError if the dataset was prepared with another tokenizer than that of the source."""
    try:
        theirs = tokenizer.load(source_tokenizer(source))
    except FileNotFoundError:
        log.warning("%s %s has no tokenizer to compare with that of the dataset", field, source)
        return
    ours = tokenizer.load(dataset_folder(config.data.dir) / "tokenizer")
    a, b = ours.pieces, theirs.pieces
    if a != b:
        number = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        what = f"{len(a)} pieces, not {len(b)}"
        if number is not None:
            what = f"{a[number]!r} as piece {number}, not {b[number]!r}"
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} has {what} as {field} {source} has: prepare "
            "the data with that one (data.tokenizer.vocab_file)"
        )
    x, y = (words.huggingface.encode(CASE_PROBE).tokens for words in (ours, theirs))
    if x != y:
        raise UserError(
            f"the tokenizer of data.dir {config.data.dir} makes {x} of {CASE_PROBE!r}, where that of "
            f"{field} {source} makes {y}: prepare the data as the source has it "
            "(data.tokenizer.lowercase)"
        )


def read_weights(source: Path, network: Network, mesh: Mesh, *, field: str = "init.source") -> dict[str, Any]:
    """What there is for the parameters of `network`, in our layout, by name in Transformers.

    What depends on the labels of a task is left out unless the source is for the same task and labels; and so
    is a projection of another size.
    """
    theirs = source_network(source, field=field)
    declared = jax.tree.leaves(parameters(network))
    is_same_task = (type(theirs.settings), *_labels(theirs)) == (type(network.settings), *_labels(network))
    left_out = {p.huggingface for p in declared if "labels" in p.logical_axes and not is_same_task}
    if is_run(source):
        params, _ = read_params(source, load_spec(source), step=step_of(source), mesh=mesh)
        weights = _by_name(*generator.apart(theirs, params))
    else:
        reading = network._replace(model=theirs.model)  # their number of positions
        ignored = [name for p in jax.tree.leaves(parameters(theirs)) for name in huggingface.tensor_names(p)]
        try:
            tensors = _format(source).load_tensors(source)
            tensors = {name: array for name, array in tensors.items() if name not in left_out}
            params = huggingface.from_tensors(reading, tensors, head_may_lack=True, ignored=ignored)
            weights = _by_name(reading, params)
            if network.generator is not None and (folder := generator.folder_of(source)) is not None:
                weights |= generator.read(folder)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{field}: {error}") from error
        except UserError as error:
            raise UserError(f"{field} {source}: {error}") from error
    weights = generator.share(network, weights)
    return {name: array for name, array in weights.items() if name not in left_out}


def placed(array: Any, fitted: Callable[[Any], Any], where: jax.sharding.Sharding) -> jax.Array:
    """`fitted(array)` of weights that were read, on the mesh."""
    if isinstance(array, jax.Array):
        return jax.jit(fitted, out_shardings=where)(array)
    array = np.asarray(fitted(array))
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def weights_digest(source: Path) -> str:
    """Of the files with the weights of a source."""
    if is_run(source):
        step = step_of(source) or steps_of(source)[0]
        return digest_of(checkpoints_of(source) / str(step) / PARAMS)
    return digest_of(epath.Path(source), _format(source).weights_files(source))


def _by_name(network: Network, params: Params) -> dict[str, Any]:
    """The parameters that are there, by name in Transformers."""
    names = {
        path: parameter.huggingface for path, parameter in jax.tree.leaves_with_path(parameters(network))
    }
    return {names[path]: array for path, array in jax.tree.leaves_with_path(params)}


def _labels(network: Network) -> tuple[Any, Any]:
    """What sizes with the logical axis "labels" depend on."""
    return getattr(network.settings, "labels", ()), getattr(network.settings, "dimensions", ())


def _format(source: Path) -> ModuleType:
    return tensorflow_v1 if tensorflow_v1.is_checkpoint(source) else huggingface

"""The files that make a folder of Hugging Face one of Sentence Transformers: which vector a text has.

The encoder's own files are those of huggingface.py. What is written is read by versions 2 to 6; what is read
is what they write, as far as it can be run here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from bert_jax.config import EmbeddingConfig, EncoderConfig, TaskConfig
from bert_jax.config.task import Pooling
from bert_jax.training.network import Network
from data_pipeline.config import read_object
from data_pipeline.errors import UserError, require
from data_pipeline.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MODULES_FILE, USE_FILE = "modules.json", "config_sentence_transformers.json"
LENGTH_FILES = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)
"""Settings of the encoder; the first is what has been written since version 2."""

KNOWN = (("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize"))
"""Classes of the modules, in order."""

MODES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
"""Their poolings, and ours."""

OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Fields of 1_Pooling/config.json before version 5.4, each true or false, and what it says today."""

FIRST_MODES = tuple(OLD_MODES)[:4]
"""Those that every version knows; one that it does not know is an error to it."""

WITHOUT_POOLER = {"add_pooling_layer": False}
"""Arguments of from_pretrained: otherwise it makes a random pooler, which no vector comes from, and warns."""

DOCUMENT_PROMPTS = ("document", "passage", "corpus")
"""Names of the prompt of a text that is found: the first that is there."""

SHORTEST = 8
"""What task.sequence_length is at least."""

BOTH_CASES = "ABCÉabcé"


class Use(NamedTuple):
    """What a folder says of the vectors that its encoder makes."""

    settings: EmbeddingConfig
    dimensions: int | None = None
    """The numbers that are kept of a vector (`truncate_dim`); None: all."""
    prompt: str = ""
    """In front of a text where no prompt is asked for (`default_prompt_name`)."""
    similarity: str = "cosine"
    """How vectors are compared (`similarity_fn_name`)."""


def is_folder(directory: Path) -> bool:
    """Whether it says what a text's vector is."""
    return (directory / MODULES_FILE).is_file() and not is_cross_encoder(directory)


def is_cross_encoder(directory: Path) -> bool:
    """Whether it is of a CrossEncoder, as version 6 saves it: with modules too, but without vectors."""
    return _use(directory).get("model_type") == "CrossEncoder"


def cross_encoder_fields(directory: Path) -> dict[str, Any]:
    """What config.json says of a CrossEncoder before version 6, if the folder has it in a file of its own.

    Raises:
      UserError: the folder asks for what cannot be run here.
    """
    if not is_cross_encoder(directory):
        return {}
    file, use = directory / USE_FILE, _use(directory)
    default = use.get("default_prompt_name")
    require(
        default is None, f"{file} has default_prompt_name {default!r}; a CrossEncoder has no prompts here"
    )
    activation = use.get("activation_fn")
    return {} if activation is None else {"sentence_transformers": {"activation_fn": activation}}


def without_modules(directory: Path, *, length: int) -> Use:
    """What Sentence Transformers makes of an encoder that nobody has said more about."""
    log.info(
        "%s does not say what a text's vector is (no %s): the mean of its tokens, not normalized",
        directory,
        MODULES_FILE,
    )
    return Use(EmbeddingConfig(sequence_length=length, normalize=False))


def longest(model: EncoderConfig, tokenizer: Tokenizer) -> int:
    """Tokens of a text at most: `model_max_length`, which is a number beyond reason if it is not known."""
    stated = tokenizer.settings.get("model_max_length")
    return int(min(stated, model.longest)) if isinstance(stated, int | float) else model.longest


# Read


def read(directory: Path, *, model: EncoderConfig, tokenizer: Tokenizer) -> Use:
    """What the files of a folder say.

    Raises:
      UserError: they are damaged, or ask for what cannot be run here; names the module.
    """
    folders = module_folders(directory)
    if "Normalize" in folders:
        check_normalize(folders["Normalize"] / "config.json", "sentence_embedding")
    fields = encoder_fields(directory, tokenizer)
    length = fields.get("max_seq_length")
    if length is None:
        length = longest(model, tokenizer)
    prompts, use = use_fields(directory, "SentenceTransformer")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    default = use.get("default_prompt_name")
    if default is not None and str(default) not in prompts:
        raise UserError(
            f"{directory / USE_FILE} has default_prompt_name {default!r}, which is no prompt of it"
        )
    dimensions = use.get("truncate_dim")
    if dimensions is not None and not (isinstance(dimensions, int) and dimensions >= 1):
        raise UserError(
            f"{directory / USE_FILE} has truncate_dim {dimensions!r}, which is no size of a vector"
        )
    if not isinstance(length, int) or length < SHORTEST:
        raise UserError(
            f"{directory} has max_seq_length {length!r}; it must be a whole number, at least {SHORTEST}"
        )
    settings = EmbeddingConfig(
        sequence_length=min(length, model.longest),
        pooling=_pooling(folders["Pooling"]),
        normalize="Normalize" in folders,
        query_prompt=prompts.get("query", ""),
        document_prompt=document,
    )
    return Use(
        settings,
        dimensions=dimensions,
        prompt=prompts[default] if default else "",
        similarity=str(use.get("similarity_fn_name") or "cosine"),
    )


def module_folders(
    directory: Path,
    *,
    known: Sequence[tuple[str, ...]] = KNOWN,
    libraries: tuple[str, ...] = ("sentence_transformers.",),
) -> dict[str, Path]:
    """Where the files of each module are, by the name of its class.

    Args:
      known: classes of the modules, in order; the last has all.
      libraries: begin the names of classes.

    Raises:
      UserError: the modules are others, or their files outside of the folder.
    """
    file = directory / MODULES_FILE
    try:
        modules = json.loads(file.read_bytes())
        classes = [str(module["type"]) for module in modules]
        paths = [module["path"] for module in modules]
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON ({error})") from error
    except (TypeError, KeyError) as error:
        raise UserError(f"{file} is no list of modules, each with a type and a path") from error
    names = tuple(name.rpartition(".")[2] for name in classes)
    for whole, name in zip(classes, names, strict=True):
        if not whole.startswith(libraries) or name not in known[-1]:
            raise UserError(f"{file} has the module {whole}; known are {', '.join(known[-1])}")
    if names not in known:
        raise UserError(f"{file} has {', '.join(names) or 'no modules'}; known is {', '.join(known[-1])}")
    for path in paths:
        if not isinstance(path, str) or _leads_out(path):
            raise UserError(f"{file} has the path {path!r}, which is none of a folder in it")
    if paths[0]:
        raise UserError(
            f"{file} has the encoder in {paths[0]!r}, as before version 2 of Sentence Transformers: load the "
            "model with it, and save it again"
        )
    return dict(zip(names, (directory / path for path in paths), strict=True))


def _leads_out(path: str) -> bool:
    return (
        PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path or ":" in path
    )


def check_normalize(file: Path, what: str) -> None:
    """Raises UserError unless the module Normalize is for that."""
    fields = read_object(file) if file.is_file() else {}
    for name in ("module_input_name", "module_output_name"):
        check(file, "Normalize", name, fields.get(name) or "sentence_embedding", what)


def _pooling(folder: Path) -> Pooling:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder.parent} has no {folder.name}/config.json, of the module Pooling")
    fields = read_object(file)
    modes = fields.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in OLD_MODES.items() if fields.get(name)] or ["mean"]
    if isinstance(modes, list) and len(modes) == 1:
        modes = modes[0]
    if not isinstance(modes, str) or modes not in MODES:
        named = " and ".join(map(str, modes)) if isinstance(modes, list) else modes
        raise UserError(f"{file}: the module Pooling takes {named}; known are {', '.join(MODES)}")
    check(file, "Pooling", "include_prompt", fields.get("include_prompt", True), True)
    return MODES[modes]


def encoder_fields(directory: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Settings of the encoder. Raises UserError if they ask for what cannot be run here."""
    file = next((directory / name for name in LENGTH_FILES if (directory / name).is_file()), None)
    if file is None:
        return {}
    fields = read_object(file)
    for name, usual in (
        ("transformer_task", "feature-extraction"),
        ("module_output_name", "token_embeddings"),
    ):
        check(file, "Transformer", name, fields.get(name, usual), usual)
    if fields.get("do_lower_case"):
        lowered, whole = tokenizer.encode_batch([BOTH_CASES.lower(), BOTH_CASES])
        require(lowered == whole, f"{file}: do_lower_case is true, but the tokenizer keeps the case")
    return fields


def use_fields(directory: Path, *kinds: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The prompts, and all else that is said of how vectors are used. Raises UserError if it is none of a
    model of these kinds, of which the first need not be named."""
    file = directory / USE_FILE
    fields = _use(directory)
    kind = fields.get("model_type") or kinds[0]
    require(kind in kinds, f"{file} is of a {kind}; known is {kinds[0]}")
    prompts = fields.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{file} has prompts {prompts!r}, which are no texts by name")
    return {name: text or "" for name, text in prompts.items()}, fields


def _use(directory: Path) -> dict[str, Any]:
    file = directory / USE_FILE
    return read_object(file) if file.is_file() else {}


def check(file: Path, module: str, name: str, value: Any, known: Any) -> None:
    """Raises UserError unless a field of a module has the value that is known here."""
    require(
        value == known,
        f"{file}: the module {module} has {name} {json.dumps(value)}; known is {json.dumps(known)}",
    )


# Write


def write(directory: Path, network: Network, *, dimensions: int | None) -> None:
    """Writes the files beside those of the encoder.

    Args:
      dimensions: the numbers of a vector that Sentence Transformers keeps; None: all.
    """
    settings = network.settings
    assert isinstance(settings, EmbeddingConfig)
    modules = [f"sentence_transformers.models.{name}" for name in KNOWN[settings.normalize]]
    mode = next(theirs for theirs, ours in MODES.items() if ours == settings.pooling)
    pooling: dict[str, Any] = {
        name: OLD_MODES[name] == mode for name in OLD_MODES if name in FIRST_MODES or OLD_MODES[name] == mode
    }
    use: dict[str, Any] = {
        "model_type": "SentenceTransformer",
        "prompts": {"query": settings.query_prompt, "document": settings.document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    if dimensions is not None:
        use["truncate_dim"] = dimensions
    pooling_file = {
        "1_Pooling/config.json": {"word_embedding_dimension": network.model.hidden_size} | pooling
    }
    write_files(directory, network, modules, use, pooling_file)


def write_files(
    directory: Path,
    network: Network,
    modules: Sequence[str],
    use: dict[str, Any],
    further: dict[str, dict[str, Any]],
) -> None:
    """Writes what every folder has, and the settings of its modules but the encoder.

    Args:
      modules: the full names of their classes, which later versions have too.
      use: how vectors are used.
      further: the content of files by their name.
    """
    assert isinstance(network.settings, TaskConfig)
    listed = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name.rpartition('.')[2]}" if index else "",
            "type": name,
        }
        for index, name in enumerate(modules)
    ]
    encoder: dict[str, Any] = {"max_seq_length": network.settings.sequence_length, "do_lower_case": False}
    if network.encoder.HUGGINGFACE.has_pooler:
        encoder["model_args"] = WITHOUT_POOLER
    for name, content in {MODULES_FILE: listed, LENGTH_FILES[0]: encoder, USE_FILE: use, **further}.items():
        file = directory / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

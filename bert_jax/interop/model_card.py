"""The README.md of an exported folder: what the model is, its training, its scores, how to load it."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path

from bert_jax.config import DistillationConfig, EmbeddingConfig, LateInteractionConfig
from bert_jax.training.moving_average import OF_AVERAGE
from bert_jax.training.network import Network
from bert_jax.training.run_spec import RunSpec
from bert_jax.workdir.metrics_file import read_metrics

PIPELINES = {
    "Model": "feature-extraction",
    "ForPreTraining": "fill-mask",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
"""The Hub's pipelines, by the end of Transformers' class."""


def model_card(
    workdir: Path,
    spec: RunSpec,
    *,
    steps: tuple[int, ...],
    ema: bool,
    network: Network,
    license: str | None,
    dimensions: int | None = None,
) -> str:
    """Markdown with the front matter that the Hub reads. All figures are the workdir's.

    Args:
      steps: whose weights these are: several if they are the mean of several.
      ema: they are the exponential moving average.
      dimensions: the numbers of a vector that Sentence Transformers keeps; None: all.
    """
    config, model, train = spec.config, network.model, spec.config.train
    suffix, task = network.objective.HUGGINGFACE_SUFFIX, spec.config.task
    settings = network.settings
    if isinstance(settings, EmbeddingConfig):
        front = ["pipeline_tag: sentence-similarity", "library_name: sentence-transformers"]
        front += ["tags:", "- sentence-transformers", "- feature-extraction", f"- {model.kind}"]
    elif isinstance(settings, LateInteractionConfig):
        front = ["pipeline_tag: sentence-similarity", "library_name: sentence-transformers"]
        front += ["tags:", "- sentence-transformers", "- PyLate", "- late-interaction", "- colbert"]
        front.append(f"- {model.kind}")
    else:
        # A discriminator is for none before it is fine-tuned.
        is_for_one = suffix in PIPELINES and not network.generator
        front = [f"pipeline_tag: {PIPELINES[suffix]}"] if is_for_one else []
        front += ["library_name: transformers", "tags:", f"- {model.kind}"]
    if license is not None:
        front.append(f"license: {license}")
    facts = {
        "Architecture": f"{network.huggingface_class}: {model.num_hidden_layers} layers, "
        f"hidden size {model.hidden_size}, {model.num_attention_heads} heads, {model.vocab_size:,} pieces",
        "Trained on": f"`{config.data.source}`" if task is None else f"`{task.train}`",
        "Validated on": "held-out documents of it" if task is None else f"`{task.validation}`",
        "Started from": f"`{config.init.source}`" if config.init.source else "random weights",
        "Steps": f"{steps[-1]:,} {spec.length_description}, {train.global_batch_size} rows of "
        f"{spec.rows.sequence_length} tokens each",
        "Optimizer": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}, "
        f"seed {train.seed}",
        "Made with": f"bert-jax {version('bert-jax')}",
        "License": license or "not stated",
    }
    if len(steps) > 1:
        facts["Weights"] = f"the mean of the checkpoints of steps {', '.join(f'{step:,}' for step in steps)}"
    if ema:
        facts["Weights"] = f"an exponential moving average, decay {config.optimizer.ema_decay:g} a step"
    if isinstance(settings, EmbeddingConfig):
        facts |= _facts_of_vectors(settings, size=model.hidden_size, dimensions=dimensions)
    if isinstance(settings, LateInteractionConfig):
        facts |= _facts_of_tokens(settings)
    if isinstance(config.objective, DistillationConfig):
        facts["Distilled from"] = f"`{config.objective.teacher}`"
    if labels := getattr(network.settings, "labels", ()):
        facts["Labels"] = ", ".join(labels)
    lines = ["---", *front, "---", "", f"# {workdir.name}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    metrics = _validation_metrics(workdir, steps[0], ema=ema) if len(steps) == 1 else {}
    if metrics:
        lines += ["", "| validation | |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    if isinstance(settings, EmbeddingConfig):
        usage = _how_to_embed(settings, has_pooler=network.encoder.HUGGINGFACE.has_pooler)
    elif isinstance(settings, LateInteractionConfig):
        usage = _how_to_compare()
    else:
        usage = _how_to_load("AutoModel" + suffix.removeprefix("Model"))
    return "\n".join([*lines, "", *usage]) + "\n"


def _facts_of_vectors(settings: EmbeddingConfig, *, size: int, dimensions: int | None) -> dict[str, str]:
    of = {"mean": "the mean of all tokens", "cls": "the first token", "last": "the last token"}
    length = "of length 1" if settings.normalize else "not normalized"
    numbers = f"{size} numbers"
    if dimensions is not None:
        numbers = f"the first {dimensions} of {numbers}"
        length += " before they are cut" if settings.normalize else ""
    facts = {
        "Vectors": f"{numbers}, {of[settings.pooling]}, {length}; texts of up to "
        f"{settings.sequence_length} tokens, longer ones are cut"
    }
    if dimensions is not None and settings.normalize:
        facts["Vectors that are cut"] = (
            "are shorter than length 1, unless `encode` is asked for `normalize_embeddings=True`; "
            "cosines are the same either way"
        )
    if settings.dimensions:
        facts["Sizes to which a vector may be cut"] = ", ".join(map(str, settings.dimensions))
    return facts | _prompts(settings)


def _facts_of_tokens(settings: LateInteractionConfig) -> dict[str, str]:
    query = f"queries of {'' if settings.query_expansion else 'up to '}{settings.query_length} tokens"
    facts = {
        "Vectors": f"{settings.dimensions} numbers a token, of length 1, compared by MaxSim; {query}, "
        f"documents of up to {settings.sequence_length}, longer ones are cut"
    }
    if settings.query_expansion:
        facts["Shorter queries"] = "are filled up with the mask token, whose vectors count"
    if settings.skip_punctuation:
        facts["Punctuation"] = "of documents has no vectors"
    return facts | _prompts(settings)


def _prompts(settings: EmbeddingConfig | LateInteractionConfig) -> dict[str, str]:
    asked = {"query": settings.query_prompt, "document": settings.document_prompt}
    return {f"Prompt of a {name}": f"`{prompt}`" for name, prompt in asked.items() if prompt}


def _validation_metrics(workdir: Path, step: int, *, ema: bool) -> dict[str, float]:
    """The metrics of the exported weights, if they were evaluated."""
    file = workdir / "metrics.jsonl"
    found = read_metrics(file).get((step, "validation"), {}) if file.exists() else {}
    return {
        name.removeprefix(OF_AVERAGE): value
        for name, value in found.items()
        if name not in ("tokens", "hours") and math.isfinite(value) and name.startswith(OF_AVERAGE) == ema
    }


def _how_to_load(loader: str) -> list[str]:
    return [
        "```python",
        f"from transformers import AutoTokenizer, {loader}",
        "",
        f'model = {loader}.from_pretrained("DIR")',
        'tokenizer = AutoTokenizer.from_pretrained("DIR")',
        "```",
    ]


def _how_to_embed(settings: EmbeddingConfig, *, has_pooler: bool) -> list[str]:
    names = [
        f', prompt_name="{name}"' if prompt else ""
        for name, prompt in (("query", settings.query_prompt), ("document", settings.document_prompt))
    ]
    lines = [
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("DIR")',
        f'queries = model.encode(["How far away is the moon?"]{names[0]})',
        f'documents = model.encode(["384,400 km on average.", "It has no air."]{names[1]})',
        "print(model.similarity(queries, documents))",
        "```",
    ]
    if has_pooler:
        lines += [
            "",
            'Transformers alone opens it with `AutoModel.from_pretrained("DIR", add_pooling_layer=False)`; '
            "otherwise it makes a pooler of random weights, which no vector comes from, and warns.",
        ]
    return lines


def _how_to_compare() -> list[str]:
    return [
        "```python",
        "from sentence_transformers import MultiVectorEncoder",
        "",
        'model = MultiVectorEncoder("DIR")',
        'queries = model.encode_query(["How far away is the moon?"])',
        'documents = model.encode_document(["384,400 km on average.", "It has no air."])',
        "print(model.similarity(queries, documents))",
        "```",
        "",
        "Sentence Transformers has that class since version 6; PyLate opens the folder as "
        '`models.ColBERT("DIR")`.',
    ]

"""The README.md of an exported folder: what the model is, its training, its scores, how to load it."""

from __future__ import annotations

import math
from importlib.metadata import version
from pathlib import Path

from bert_jax.config import Config
from bert_jax.workdir.metrics_file import read_metrics

LOADERS = {
    "BertForPreTraining": "AutoModelForPreTraining",
    "BertForMaskedLM": "AutoModelForMaskedLM",
    "BertForSequenceClassification": "AutoModelForSequenceClassification",
    "BertForTokenClassification": "AutoModelForTokenClassification",
    "BertForQuestionAnswering": "AutoModelForQuestionAnswering",
}
PIPELINES = {
    "BertForPreTraining": "fill-mask",
    "BertForMaskedLM": "fill-mask",
    "BertForSequenceClassification": "text-classification",
    "BertForTokenClassification": "token-classification",
    "BertForQuestionAnswering": "question-answering",
}
"""Hugging Face's names, by Transformers' class."""


def model_card(workdir: Path, config: Config, *, step: int, architecture: str, license: str | None) -> str:
    """Markdown with the front matter that the Hub reads. All figures are the workdir's."""
    model, train = config.model, config.train
    front = [f"pipeline_tag: {PIPELINES[architecture]}", "library_name: transformers", "tags:", "- bert"]
    if license is not None:
        front.append(f"license: {license}")
    pretraining = model.head == "pretraining"
    facts = {
        "Architecture": f"{architecture}: {model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_attention_heads} heads, {model.vocab_size:,} pieces",
        "Trained on": f"`{config.data.source}`" if pretraining else f"`{config.task.train}`",
        "Validated on": "held-out documents of it" if pretraining else f"`{config.task.validation}`",
        "Started from": f"`{config.init.source}`" if config.init.source else "random weights",
        "Steps": f"{step:,} {train.length}, {train.global_batch_size} rows of "
        f"{config.data.sequence_length} tokens each",
        "Optimizer": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}, "
        f"seed {train.seed}",
        "Made with": f"bert-jax {version('bert-jax')}",
        "License": license or "not stated",
    }
    if model.labels:
        facts["Labels"] = ", ".join(model.labels)
    lines = ["---", *front, "---", "", f"# {workdir.name}", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    metrics = _validation_metrics(workdir, step)
    if metrics:
        lines += ["", "| validation | |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    return "\n".join([*lines, "", *_how_to_load(architecture)]) + "\n"


def _validation_metrics(workdir: Path, step: int) -> dict[str, float]:
    """Of the exported step, if it was evaluated."""
    file = workdir / "metrics.jsonl"
    found = read_metrics(file).get((step, "validation"), {}) if file.exists() else {}
    return {name: v for name, v in found.items() if name not in ("tokens", "hours") and math.isfinite(v)}


def _how_to_load(architecture: str) -> list[str]:
    loader = LOADERS[architecture]
    return [
        "```python",
        f"from transformers import AutoTokenizer, {loader}",
        "",
        f'model = {loader}.from_pretrained("DIR")',
        'tokenizer = AutoTokenizer.from_pretrained("DIR")',
        "```",
    ]

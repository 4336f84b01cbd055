"""An encoder, an objective, a task and a kernel: each is added by one object, and no other file changes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bert_jax.models
import bert_jax.objectives
import bert_jax.ops.attention
import bert_jax.tasks
from bert_jax.analysis.explain import explain
from bert_jax.analysis.scoring import score_workdir
from bert_jax.config import (
    ClassificationConfig,
    Config,
    EncoderConfig,
    ModelConfig,
    ObjectiveConfig,
    TokenClassificationConfig,
    TrainConfig,
)
from bert_jax.finetuning.finetune import finetune
from bert_jax.inference.fill_mask import fill_mask
from bert_jax.inference.predict import predictions
from bert_jax.interop.export import export
from bert_jax.models.encoder import Batch, HuggingFace
from bert_jax.models.layers import Dense, param
from bert_jax.objectives.objective import Metric
from bert_jax.ops.attention import KERNELS, select_kernel, xla
from bert_jax.ops.attention.kernel import Request
from bert_jax.run.evaluate import evaluate_workdir
from bert_jax.run.pretrain import pretrain
from bert_jax.tasks import classification, task_of
from bert_jax.training.fits import check_fits
from bert_jax.workdir.run_files import load_config, load_spec
from data_pipeline.errors import UserError
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import read_batches
from tests.helpers.paths import ROOT
from tests.helpers.runs import metrics
from tests.helpers.steps import mesh_of, run


def module(name: str, **members: Any) -> ModuleType:
    """What a file of this name with these members would be."""
    made = ModuleType(name)
    vars(made).update(members)
    return made


# A kernel


@pytest.mark.long
def test_a_kernel(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One that is for CPUs and short rows: `auto` finds it, and what it refuses is said in its words."""
    calls = []

    def apply(*qkv: jax.Array, **rest: Any) -> jax.Array:
        calls.append(qkv[0].shape)
        return xla.apply(*qkv, **rest)

    def refuses(request: Any) -> str | None:
        return None if request.sequence_length <= 64 else "takes rows of at most 64"

    toy = module("toy", NAME="toy", MANUAL_AXES=False, KEEPS_PROBABILITIES=True, refuses=refuses, apply=apply)
    monkeypatch.setattr(bert_jax.ops.attention, "KERNELS", (toy, *KERNELS))
    spec = spec_of(config)
    assert spec.kernels.whole is toy
    run(config, read_batches(config, 1))
    assert calls
    long = Request("cpu", None, "float32", sequence_length=128, head_dim=8, dropout=True, packed=True)
    with pytest.raises(UserError, match=r"model\.attention 'toy' takes rows of at most 64; use another one"):
        select_kernel("toy", long)
    assert pretrain(replace(config, train__stop_at=1, model__attention="toy"), workdir=tmp_path / "run")
    assert load_config(tmp_path / "run").model.attention == "toy"


# An encoder


@dataclass(frozen=True)
class BagConfig(EncoderConfig):
    """Embeddings, and a dense layer a layer: no position, no attention."""

    kind: ClassVar[str] = "bag"


class Bag(nnx.Module):
    def __init__(self, config: BagConfig, *, rngs: nnx.Rngs):
        shape = (config.padded_vocab_size, config.hidden_size)
        table = 0.1 * jax.random.normal(rngs.params(), shape)
        self.words = param(table, ("vocab", "embed"), huggingface="bag.words.weight", depth=0, decay=True)
        layers = [
            Dense(
                (config.hidden_size, config.hidden_size),
                ("embed", None),
                stddev=config.initializer_range,
                huggingface=f"bag.layer.{i}",
                depth=i + 1,
                rngs=rngs,
            )
            for i in range(config.num_hidden_layers)
        ]
        self.dense = nnx.List(layers)
        self.config = config

    @property
    def word_embeddings(self) -> nnx.Param:
        return self.words

    def encode(self, batch: Batch, *, kernels: Any, dropout_keys: Any = None) -> jax.Array:
        words = (
            batch["word_embeddings"] if "word_embeddings" in batch else self.words[...][batch["token_ids"]]
        )
        x_BxSxD = words.astype(self.config.dtype)
        same_BxSxS = batch["segment_ids"][:, :, None] == batch["segment_ids"][:, None, :]
        for dense in self.dense:
            mean_BxSxD = jnp.einsum("bqk,bkd->bqd", same_BxSxS.astype(x_BxSxD.dtype), x_BxSxD)
            x_BxSxD = x_BxSxD + jnp.tanh(dense(mean_BxSxD / x_BxSxD.shape[1]))
        return x_BxSxD

    def attention_maps(self, batch: Batch) -> jax.Array:
        S = batch["token_ids"].shape[1]
        return jnp.full((len(self.dense), 1, S, S), 1 / S)


class BagLMHead(nnx.Module):
    def __init__(self, config: BagConfig, *, rngs: nnx.Rngs):
        self.bias = param(
            jnp.zeros(config.padded_vocab_size), ("vocab",), huggingface="head.bias", depth=99, decay=False
        )

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return hidden


class BagClassifier(nnx.Module):
    def __init__(self, config: BagConfig, *, num_labels: int, rngs: nnx.Rngs):
        self.out = Dense(
            (config.hidden_size, num_labels),
            ("embed", "labels"),
            stddev=0.02,
            huggingface="out",
            depth=99,
            rngs=rngs,
        )

    def __call__(
        self, hidden_BxSxD: jax.Array, segment_ids_BxS: Any, *, dropout_keys: Any = None
    ) -> jax.Array:
        return self.out(hidden_BxSxD.mean(axis=1)).astype(jnp.float32)


SHAPE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
BAG = module(
    "bag",
    Config=BagConfig,
    HUGGINGFACE=HuggingFace(
        model_type="bag",
        class_prefix="Bag",
        base_prefix="bag.",
        fields=SHAPE,
        constants={},
        token_ids={},
        required={},
        values={},
        legacy_suffixes={},
        tied={},
        unused=(),
    ),
    init=Bag,
    refuses=lambda config, data: None,
    with_dropout=lambda config, rate: config,
    window=lambda config: None,
    attention_dropout=lambda config: 0.0,
    flops=lambda config, *, sequence_length: 2.0 * sequence_length * config.hidden_size**2,
    kept_bytes=lambda config, *, sequence_length, kernels, tensor=1: 4.0 * sequence_length,
    masked_lm_head=BagLMHead,
    replaced_token_head=None,
    pooler=None,
    next_sentence_classifier=None,
    sequence_classification_head=BagClassifier,
    token_classification_head=None,
    question_answering_head=None,
)


@pytest.fixture
def bag(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A pretraining of the toy encoder, on single sequences."""
    monkeypatch.setattr(bert_jax.models, "MODELS", (*bert_jax.models.MODELS, BAG))
    model = BagConfig(**{name: getattr(config.model, name) for name in SHAPE})
    return replace(config, model=model, objective=bert_jax.config.MlmConfig(), train__steps=12)


@pytest.mark.long
def test_an_encoder(bag: Config, tmp_path: Path):
    workdir = tmp_path / "run"
    assert pretrain(bag, workdir=workdir)
    losses = [line["loss"] for line in metrics(workdir)]
    assert losses[-1] < losses[0]
    assert load_config(workdir) == bag
    found = evaluate_workdir(load_spec(workdir), workdir=workdir)
    assert (
        found["loss"] == found["mlm_loss"] == pytest.approx(metrics(workdir, "validation")[-1]["loss"], 1e-5)
    )
    export(workdir, out=tmp_path / "exported")
    fields = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert (fields["model_type"], fields["architectures"]) == ("bag", ["BagForMaskedLM"])
    one, other = (fill_mask(folder, "the [MASK] of it") for folder in (workdir, tmp_path / "exported"))
    assert [guess.word for guess in one[0]] == [guess.word for guess in other[0]]
    found = explain(tmp_path / "exported", "the [MASK] of it", steps=8)
    assert sum(found.attributions) == pytest.approx(found.output - found.baseline, abs=0.1)


def test_what_an_encoder_lacks_is_refused(bag: Config, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"bag has no next-sentence head: use data\.input_format full_sentences"
    ):
        pretrain(replace(bag, objective=None), workdir=tmp_path)
    assert task_of(TokenClassificationConfig()).refuses(TokenClassificationConfig(), BAG, None) == (
        "bag has no head for token_classification"
    )


# An objective


@dataclass(frozen=True)
class ContrastConfig(ObjectiveConfig):
    """A row's [CLS] should find the mean of its own row among those of all rows of the batch."""

    kind: ClassVar[str] = "contrast"
    temperature: float = 0.5


class ContrastHead(nnx.Module):
    def __init__(self, model: EncoderConfig, rngs: nnx.Rngs):
        size = model.hidden_size
        self.projection = Dense(
            (size, size), ("embed", None), stddev=0.1, huggingface="projection", depth=99, rngs=rngs
        )


def contrast_sums(settings, head, encoder, batch, *, kernels, dropout_keys=None):
    hidden_BxSxD = encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys)
    one_BxD, other_BxD = head.projection(hidden_BxSxD[:, 0]), hidden_BxSxD.mean(axis=1)
    nll_B = -jnp.diagonal(jax.nn.log_softmax(one_BxD @ other_BxD.T / settings.temperature, axis=-1))
    return {"contrast_loss": (nll_B.sum(), jnp.float32(len(nll_B)))}


CONTRAST = module(
    "contrast",
    Config=ContrastConfig,
    INPUT_FORMATS=(),
    REDUCTION="batch",
    PREDICTS_TOKENS=False,
    HUGGINGFACE_SUFFIX="Model",
    metrics=lambda settings: (Metric("loss", "Loss", higher_is_better=False),),
    refuses=lambda settings, encoder, data: None,
    init=lambda settings, encoder, model, *, rngs: ContrastHead(model, rngs),
    sums=contrast_sums,
    weights=lambda batch: {"contrast_loss": jnp.float32(len(batch["token_ids"]))},
    flops=lambda settings, model, rows: 2.0 * model.hidden_size**2,
    kept_bytes=lambda settings, model, rows, *, tensor=1: 4.0 * model.hidden_size,
)


@pytest.fixture
def contrast(config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(bert_jax.objectives, "OBJECTIVES", (*bert_jax.objectives.OBJECTIVES, CONTRAST))
    return replace(config, objective=ContrastConfig(), train__steps=12)


@pytest.mark.long
def test_an_objective(contrast: Config, tmp_path: Path):
    workdir = tmp_path / "run"
    assert pretrain(contrast, workdir=workdir)
    losses = [line["loss"] for line in metrics(workdir)]
    assert losses[-1] < losses[0]
    spec = load_spec(workdir)
    assert spec.network.settings == ContrastConfig()
    found = evaluate_workdir(spec, workdir=workdir)
    assert found["loss"] == found["contrast_loss"] > 0
    export(workdir, out=tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["architectures"] == ["BertModel"]
    with pytest.raises(UserError, match=r"the model is for contrast, which predicts no words$"):
        fill_mask(workdir, "a [MASK]")
    with pytest.raises(UserError, match=r"a model for contrast, which predicts no words to explain"):
        explain(workdir, "a [MASK]")
    with pytest.raises(UserError, match=r"trains contrast, which predicts no words to score"):
        score_workdir(spec, workdir=workdir, step=12, rows=4)


@pytest.mark.long
def test_a_loss_over_the_whole_batch_is_the_same_on_any_mesh(contrast: Config):
    """In-batch negatives: those of other devices count too."""
    batches = read_batches(contrast, 3)
    _, expected = run(contrast, batches)
    for mesh in ((8, 1, 1), (2, 2, 2)):
        _, found = run(contrast, batches, mesh)
        assert [m["loss"] for m in found] == pytest.approx([m["loss"] for m in expected], abs=1e-5)
    with pytest.raises(UserError, match=r"train\.global_batch_size is 1; it must be at least 2, .* contrast"):
        check_fits(spec_of(replace(contrast, train__global_batch_size=1)), mesh_of((1, 1, 1)))


# A task


@dataclass(frozen=True)
class ParityConfig(ClassificationConfig):
    """Whether a text has an even number of words; its examples are plain texts."""

    kind: ClassVar[str] = "parity"
    labels: tuple[str, ...] = ("even", "odd")


def read_parity(source: str, settings: ParityConfig, *, labelled: bool = True) -> list[Any]:
    lines = Path(source).read_text().splitlines()
    return [
        classification.Text(f"{source} line {i}", line, None, settings.labels[len(line.split()) % 2])
        for i, line in enumerate(lines, 1)
    ]


def score_parity(examples: Sequence[Any], predictions: Sequence[dict], settings: Any) -> dict[str, float]:
    right = [example.label == found["label"] for example, found in zip(examples, predictions, strict=True)]
    return {"right": float(np.mean(right))}


PARITY = module(
    "parity",
    **vars(classification)
    | {
        "Config": ParityConfig,
        "read": read_parity,
        "metrics": lambda settings: (Metric("right", "Right"),),
        "score": score_parity,
        "check_libraries": lambda: None,
        "to_huggingface": lambda settings: {"problem_type": "parity"},
        "from_huggingface": lambda suffix, fields: (
            ParityConfig() if fields.get("problem_type") == "parity" else None
        ),
    },
)


@pytest.mark.long
def test_a_task(config: Config, folder_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bert_jax.tasks, "TASKS", (PARITY, *bert_jax.tasks.TASKS))
    texts = tmp_path / "texts.txt"
    texts.write_text("".join("word " * (1 + i % 5) + "end\n" for i in range(24)))
    asked = Config(
        model=ModelConfig(),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=10_000, learning_rate=3e-3),
        train=TrainConfig(global_batch_size=8, log_every=1),
        init=dataclasses.replace(config.init, source=str(folder_of("mlm_nsp"))),
        task=ParityConfig(train=str(texts), validation=str(texts), epochs=2.0, sequence_length=16),
    )
    workdir = tmp_path / "run"
    (result,) = finetune(asked, workdir=workdir)
    assert 0 <= result.scores["right"] <= 1
    export(workdir, out=tmp_path / "exported")
    for folder in (workdir, tmp_path / "exported"):
        found = list(predictions(folder, file=str(texts), lines=[], batch_size=8, top=1))
        right = np.mean(
            [f["label"] == e.label for f, e in zip(found, read_parity(texts, asked.task), strict=True)]
        )
        assert right == result.scores["right"], "the best checkpoint, in and out"


# Where the names stand


def test_each_kind_is_named_in_its_own_file_only():
    """And by its config. Lines about Hugging Face's `problem_type` have their own word "regression"."""
    package = ROOT / "bert_jax"
    sources = {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}

    def naming(word: str) -> set[str]:
        return {
            file
            for file, text in sources.items()
            if any(f'"{word}"' in line and "problem_type" not in line for line in text.splitlines())
        }

    def own_file(found: Any) -> str:
        name = found.__name__ if isinstance(found, ModuleType) else type(found).__module__
        return name.removeprefix("bert_jax.").replace(".", "/") + ".py"

    for objective in bert_jax.objectives.OBJECTIVES:
        assert naming(objective.Config.kind) <= {"config/objective.py", own_file(objective)}
    for task in bert_jax.tasks.TASKS:
        assert naming(task.Config.kind) <= {"config/task.py", own_file(task)}
    for kernel in KERNELS:
        assert naming(kernel.NAME) == {own_file(kernel)}
    assert not naming("pretraining")

"""Fine-tuning: small sets of awkward examples learned by heart, stopped, resumed, exported, asked again."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.cli import main as cli
from bert_jax.config import (
    BertConfig,
    Config,
    InitConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    delta,
)
from bert_jax.finetuning.finetune import finetune, finetuning_spec, report
from bert_jax.inference.predict import predictions
from bert_jax.interop import huggingface
from bert_jax.interop.export import export, export_every
from bert_jax.interop.load import load_workdir
from bert_jax.objectives import mlm_nsp
from bert_jax.tasks import TASKS
from bert_jax.training.network import Network, init_params
from data_pipeline.errors import UserError
from tests.helpers.configs import recipe_of, replace

TEXTS = [
    ("return the value of the object", "value"),
    ("the name of the class , if there is one", "name"),
    ("values ! values \U0001f600 values", "value"),
    ("called with a cafe\u0301 name", "name"),
    ("[SEP] value", "value"),
    ("a name", "name"),
    ("this is the value", "value"),
    ("name the module", "name"),
]
SENTENCES = [
    ["Guido:B-PER", "van:I-PER", "Rossum:I-PER", "wrote:O", "Python:B-MISC", ".:O"],
    ["Ada:B-PER", "\U0001f600:O", "Lovelace:B-PER", "in:O", "London-on-Thames:B-LOC"],
    ["the:O", "\u200d:O", "unbelievably-long-identifier:B-MISC", "returns:O"],
    ["Cafe\u0301:B-LOC", "de:I-LOC", "Flore:I-LOC", "is:O", "open:O"],
]
CONTEXT = (
    "the module has functions that return a list , a string or a number . the others raise an error . "
    "Ada Lovelace wrote the first program in 1843 \U0001f600 for a cafe\u0301 machine that was never built . "
    "the class is used where the method is called without an argument , and the file is read line by line ."
)
QUESTIONS = [
    ("who wrote it ?", CONTEXT, "Ada Lovelace"),
    ("when was it ?", CONTEXT, "1843"),
    ("who built it ?", CONTEXT, None),
    ("what kind of machine ?", CONTEXT, "cafe\u0301 machine"),
    ("what is returned ?", "The value is returned.", "The value"),
    ("is it raining ?", "The value is returned.", None),
]


@pytest.fixture(scope="session")
def encoder(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to start from, as Hugging Face has it, with the tokenizer of the tiny dataset."""
    folder = tmp_path_factory.mktemp("encoder")
    small = dataclasses.replace(config.model, hidden_size=64, hidden_dropout_prob=0.2)
    network = Network(small, mlm_nsp, mlm_nsp.Config())
    tensors = huggingface.to_tensors(network, init_params(network, jax.random.key(3)))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(huggingface.to_config(network)))
    shutil.copytree(Path(config.data.dir) / "tokenizer", folder, dirs_exist_ok=True)
    return folder


def labels_of(label: str) -> list[str]:
    """Two labels, or none."""
    return ["name", "noun"] if label == "name" else []


def write_examples(kind: str, path: Path, *, times: int = 1) -> Path:
    """In the form of the task; several times over, so that an epoch has that many steps."""
    match kind:
        case "classification":
            path = path.with_suffix(".tsv")
            lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in TEXTS * times)]
            path.write_text("\n".join(lines) + "\n")
        case "multi_label":
            path = path.with_suffix(".jsonl")
            rows = [{"sentence": text, "labels": labels_of(label)} for text, label in TEXTS * times]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "regression":
            path = path.with_suffix(".jsonl")
            rows = [{"sentence": text, "label": len(text) / 10} for text, _ in TEXTS * times]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "token_classification":
            path = path.with_suffix(".conll")
            words = ["\n".join(word.replace(":", " ") for word in words) for words in SENTENCES * times]
            path.write_text("\n\n".join(words) + "\n")
        case "question_answering":
            path = path.with_suffix(".json")
            paragraphs = [
                {
                    "context": context,
                    "qas": [
                        {
                            "id": str(number),
                            "question": question,
                            "is_impossible": answer is None,
                            "answers": []
                            if answer is None
                            else [{"text": answer, "answer_start": context.index(answer)}],
                        }
                    ],
                }
                for number, (question, context, answer) in enumerate(QUESTIONS * times)
            ]
            path.write_text(json.dumps({"data": [{"title": "", "paragraphs": paragraphs}]}))
        case _:
            assert kind in ("embedding", "reranking", "late_interaction")
            path = path.with_suffix(".jsonl")
            texts = [text for text, _ in TEXTS]
            groups = zip(texts, texts[1:], texts[2:], strict=False)
            rows = [dict(zip(("anchor", "positive", "negative"), group, strict=True)) for group in groups]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows * times))
    return path


def config_of(kind: str, encoder: Path, examples: Path, **task: object) -> Config:
    task = {
        "train": str(examples),
        "validation": str(examples),
        "epochs": 60.0,
        "sequence_length": 48,
        "evaluations": 1,
        "dropout": 0.0,
    } | task
    own = {"stride": 12} if kind == "question_answering" else {}
    settings = next(found.Config for found in TASKS if found.Config.kind == kind)
    return Config(
        model=ModelConfig(),
        optimizer=OptimizerConfig(learning_rate=3e-3, weight_decay=0.0),
        train=TrainConfig(global_batch_size=8, log_every=10),
        init=InitConfig(source=str(encoder)),
        task=settings(**own, **task),
    )


def logits_in_pytorch(folder: Path, texts: list[str]) -> np.ndarray:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="pt")
    with torch.no_grad():
        return theirs(**encoded).logits.numpy()


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "score"),
    [
        ("classification", "accuracy"),
        ("multi_label", "subset_accuracy"),
        ("regression", "pearson"),
        ("token_classification", "f1"),
        ("question_answering", "f1"),
    ],
)
def test_a_few_examples_are_learned_by_heart(kind: str, score: str, encoder: Path, tmp_path: Path):
    """And the model, asked again in its workdir and as an exported folder, says just that."""
    examples = write_examples(kind, tmp_path / "examples")
    config = config_of(kind, encoder, examples, epochs=12.0)
    config = replace(config, task__train=str(write_examples(kind, tmp_path / "train", times=8)))
    (result,) = finetune(config, workdir=tmp_path / "run")
    assert result.scores[score] > (0.98 if kind == "regression" else 0.9999), report([result])
    assert load_workdir(tmp_path / "run")[2] == result.step

    with pytest.raises(UserError, match=r"is a fine-tuning: --average is for a pretraining"):
        export(tmp_path / "run", out=tmp_path / "out", average=1)
    export(tmp_path / "run", out=tmp_path / "out")
    asked = {"file": str(examples), "lines": (), "batch_size": 4, "top": 1}
    said = list(predictions(tmp_path / "run", **asked))
    for one, other in zip(said, predictions(tmp_path / "out", **asked), strict=True):
        assert_same(one, other)
    match kind:
        case "classification":
            assert [answer["label"] for answer in said] == [label for _, label in TEXTS]
        case "multi_label":
            assert [answer["labels"] for answer in said] == [labels_of(label) for _, label in TEXTS]
        case "token_classification":
            assert [answer["labels"] for answer in said] == [
                [word.split(":")[1] for word in words] for words in SENTENCES
            ]
        case "question_answering":
            assert [answer["answer"] for answer in said] == [answer or "" for *_, answer in QUESTIONS]


def assert_same(one: object, other: object) -> None:
    """Numbers to float32's rounding: the two are padded to rows of different lengths."""
    if isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-4)
    else:
        assert one == other


@pytest.mark.long
def test_a_stopped_run_ends_with_the_same_bits(encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=6.0, evaluations=2)
    config = replace(config, task__dropout=0.1, train__global_batch_size=8, checkpoint__keep=9)
    (at_once,) = finetune(config, workdir=tmp_path / "at once")
    finetune(replace(config, train__stop_at=3), workdir=tmp_path / "stopped")
    (again,) = finetune(config, workdir=tmp_path / "stopped")
    assert again.scores == at_once.scores
    ends = [load_workdir(tmp_path / name, step=6)[1] for name in ("at once", "stopped")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.slow
def test_several_seeds_have_a_mean_and_a_spread(encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=3.0)
    results = finetune(config, workdir=tmp_path / "run", seeds=(0, 1, 2))
    losses = [result.scores["loss"] for result in results]
    assert len(set(losses)) == 3, "each seed has a head and an order of its own"
    lines = report(results)
    assert [line.split(",")[0] for line in lines[:3]] == ["seed 0", "seed 1", "seed 2"]
    assert f"loss {np.mean(losses):.4f} ± {np.std(losses, ddof=1):.4f}" in lines[3]
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [written[f"seed-{seed}"]["loss"] for seed in (0, 1, 2)] == losses
    assert finetune(config, workdir=tmp_path / "run", seeds=(0, 1, 2)) == results, "nothing is left to do"
    (alone,) = finetune(replace(config, train__seed=1), workdir=tmp_path / "alone")
    assert alone.scores == results[1].scores


def test_checkpoints_are_compared_by_the_score_that_is_asked_for(encoder: Path, tmp_path: Path):
    """Or else by the first one of the task; never by the loss, which says little of it."""
    config = config_of("regression", encoder, write_examples("regression", tmp_path / "examples"))
    for asked, best in ((None, "pearson"), ("spearman", "spearman"), ("mse", "mse")):
        spec, _ = finetuning_spec(replace(config, checkpoint__best=asked))
        assert (spec.best.name, spec.best.higher_is_better) == (best, best != "mse")
    with pytest.raises(ValueError, match=r"'loss' is no validation metric .* are pearson, spearman, mse"):
        finetuning_spec(replace(config, checkpoint__best="loss"))


@pytest.mark.long
def test_of_an_error_the_smallest_is_best(encoder: Path, tmp_path: Path):
    """That of a rate far too high grows, and the first checkpoint stays the best."""
    examples = write_examples("regression", tmp_path / "examples")
    config = config_of("regression", encoder, examples, epochs=4.0)
    config = replace(config, checkpoint__best="mse", checkpoint__keep=1, optimizer__learning_rate=1.0)
    (result,) = finetune(config, workdir=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    errors = {line["step"]: line["mse"] for line in lines if line["split"] == "validation"}
    assert len(errors) == 4
    assert result.step == min(errors, key=errors.__getitem__) < 4
    assert load_workdir(tmp_path / "run")[2] == result.step


def test_how_long_a_run_is_follows_from_the_examples(encoder: Path, tmp_path: Path):
    """20 rows in batches of 8 are 2.5 steps an epoch."""
    examples = write_examples("classification", tmp_path / "examples", times=3)
    examples.write_text("".join(examples.read_text().splitlines(keepends=True)[:21]))
    config = config_of("classification", encoder, examples, epochs=7.0, evaluations=2, warmup=0.25)
    spec, _ = finetuning_spec(config)
    assert (spec.steps, spec.warmup_steps) == (18, 4)
    assert spec.eval_every == spec.checkpoint_every == 2
    assert spec.config is config, "nobody rewrites what was asked for"
    assert spec.network.settings.labels == ("name", "value")


def test_dropout_is_that_of_the_source_unless_another_is_asked_for(encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")

    def rates(dropout: float | None) -> tuple[float, float]:
        config = config_of("classification", encoder, examples, dropout=dropout)
        model = finetuning_spec(config)[0].network.model
        return model.hidden_dropout_prob, model.attention_probs_dropout_prob

    assert rates(None) == (0.2, 0.1)
    assert rates(0.3) == (0.3, 0.3)
    assert rates(0.0) == (0.0, 0.0)


@pytest.mark.long
def test_patience_ends_a_run_that_gets_no_better(encoder: Path, tmp_path: Path):
    """The best checkpoint stays, and a restart finds nothing to do."""
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=40.0, patience=3)
    (result,) = finetune(config, workdir=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line["step"] for line in lines if line["split"] == "validation"]
    assert evaluated[-1] < 40
    assert evaluated[-1] == result.step + 3
    assert finetune(config, workdir=tmp_path / "run") == [result]


@pytest.mark.long
def test_the_source_matters_and_may_be_left_out(encoder: Path, tmp_path: Path):
    """With --init.weights False only shape and tokenizer are its own."""
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=1.0)
    config = replace(config, optimizer__learning_rate=1e-9)
    finetune(config, workdir=tmp_path / "with")
    finetune(replace(config, init__weights=False), workdir=tmp_path / "without")
    _, start = huggingface.load(encoder)
    first, *others = (
        params["encoder"]["embeddings"]["word"]
        for params in (start, *(load_workdir(tmp_path / name)[1] for name in ("with", "without")))
    )
    assert np.abs(others[0] - first).max() < 1e-6
    assert np.abs(others[1] - first).max() > 1e-2


@pytest.mark.long
def test_of_a_frozen_encoder_only_the_head_learns(encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=3.0, freeze=True)
    finetune(replace(config, optimizer__weight_decay=0.1), workdir=tmp_path / "run")
    _, start = huggingface.load(encoder)
    _, end, _ = load_workdir(tmp_path / "run")
    for one, other in zip(*map(jax.tree.leaves, (start["encoder"], end["encoder"])), strict=True):
        assert (one == other).all()
    pooler = [params["objective"]["pooler"]["dense"]["kernel"] for params in (start, end)]
    assert np.abs(pooler[0] - pooler[1]).max() > 0


@pytest.mark.long
def test_an_exported_model_says_the_same_in_pytorch(encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=10.0)
    finetune(config, workdir=tmp_path / "run")
    export(tmp_path / "run", out=tmp_path / "out", license="apache-2.0")
    texts = [text for text, _ in TEXTS if "[SEP]" not in text]  # which is no plain text to theirs
    logits = logits_in_pytorch(tmp_path / "out", texts)
    lines = map(str.encode, texts)
    ours = list(predictions(tmp_path / "out", file=None, lines=lines, batch_size=3, top=1))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, said in zip(scores, ours, strict=True):
        assert list(said["scores"]) == ["name", "value"]
        np.testing.assert_allclose(list(said["scores"].values()), row, atol=2e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    for expected in (
        "license: apache-2.0",
        "pipeline_tag: text-classification",
        "name, value",
        "| accuracy |",
    ):
        assert expected in card
    program = card.split("```python\n")[1].split("```")[0].replace("DIR", str(tmp_path / "out"))
    scope: dict[str, object] = {}
    exec(program, scope)
    assert isinstance(scope["model"], transformers.BertForSequenceClassification)


@pytest.mark.long
def test_a_series_of_checkpoints_is_exported(encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples, epochs=3.0)
    finetune(replace(config, checkpoint__keep=9), workdir=tmp_path / "run")
    folders = export_every(tmp_path / "run", out=tmp_path / "out", dtype="bfloat16")
    assert [folder.name for folder in folders] == ["step-1", "step-2", "step-3"]
    assert export_every(tmp_path / "run", out=tmp_path / "out") == [], "they are there already"
    last = transformers.AutoModelForSequenceClassification.from_pretrained(folders[-1])
    assert last.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="a model for classification, without a masked-LM head"):
        export(tmp_path / "run", out=tmp_path / "other", masked_lm=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init__source": None}, "init.source is not given"),
        ({"init__source": "nowhere"}, "nowhere has no config.json"),
        ({"task__train": ""}, "task.train is not given"),
        ({"task__validation": "nowhere.tsv"}, "nowhere.tsv"),
        ({"task__sequence_length": 65}, "65, but init.source .* has 64 positions"),
        ({"task__label": "sentiment"}, "sentiment.*sentence, label"),
        ({"task__labels": ("value",)}, "examples.tsv row 2.*name.*value"),
        ({"checkpoint__best": "pearson"}, "'pearson' is no .* accuracy, f1, macro_f1, mcc"),
        ({"train__stop_at": 61}, "train.stop_at is 61; .* between 1 and the 60 steps of task.epochs 60"),
        (
            {"optimizer__schedule": "warmup_stable_decay", "optimizer__decay_steps": 55},
            "optimizer.decay_steps 55 together pass the 60 steps of task.epochs",
        ),
    ],
)
def test_what_cannot_be_trained_is_told(changes: dict, message: str, encoder: Path, tmp_path: Path):
    examples = write_examples("classification", tmp_path / "examples")
    config = config_of("classification", encoder, examples)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetune(replace(config, **changes), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


FOLLOWS = [
    ("train.steps", 5, "task.epochs"),
    ("train.budget", "1 hours", "task.epochs"),
    ("train.eval_every", 5, "task.evaluations"),
    ("checkpoint.every", 5, "task.evaluations"),
    ("optimizer.warmup_steps", 5, "task.warmup"),
    ("data.sequence_length", 64, "the task"),
    ("data.masking.max_predictions", 30, "the task"),
]


@pytest.mark.parametrize(("name", "value", "source"), FOLLOWS)
def test_what_follows_from_the_task_is_refused_by_name(name: str, value: object, source: str, tmp_path: Path):
    """In a config where its value is no default; as a flag, where a person sets it on purpose, always."""
    config = config_of("classification", Path("encoder"), Path("examples.tsv"))
    *sections, field = name.split(".")
    changed = {field: value}
    for section in reversed(sections):
        changed = {section: changed}
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}, but .* follows from {source}: leave it"):
        delta(config, **changed)

    recipe, workdir, flag = tmp_path / "recipe.py", tmp_path / "run", f"--{name.replace('_', '-')}"
    recipe.write_text(recipe_of(config))
    command = ["finetune", str(recipe), "--workdir", str(workdir)]
    default = functools.reduce(getattr, name.split("."), config)
    for verb in (command, ["show-config", str(recipe)]):
        with pytest.raises(ValueError, match=rf"{name} is {value!r}, but .* follows from {source}"):
            cli.run([*verb, flag, str(value)])
        for given in ([flag, str(default)], [f"{flag}={default}"], [f"--{name}", str(default)]):
            with pytest.raises(ValueError, match=rf"cannot be given: {name} follows from {source}"):
                cli.run([*verb, *given])
    assert not workdir.exists()


def test_a_ramp_of_the_batch_is_refused_by_name():
    config = config_of("classification", Path("encoder"), Path("examples.tsv"))
    with pytest.raises(ValueError, match=r"^train.batch_ramp is \(2,\), but in a fine-tuning"):
        replace(config, train__batch_ramp=(2,), train__batch_ramp_steps=2)


def test_a_config_of_a_fine_tuning_names_no_encoder_and_no_objective():
    config = config_of("classification", Path("encoder"), Path("examples.tsv"))
    with pytest.raises(ValueError, match=r"takes the encoder of init\.source: give it ModelConfig"):
        replace(config, model=BertConfig())
    with pytest.raises(ValueError, match="objective is for pretraining"):
        replace(config, objective=mlm_nsp.Config())


def test_a_label_that_the_training_examples_lack_is_told(encoder: Path, tmp_path: Path):
    train = write_examples("classification", tmp_path / "train")
    (tmp_path / "validation.tsv").write_text("sentence\tlabel\na name\tname\na class\tclass\n")
    config = config_of("classification", encoder, train)
    with pytest.raises(ValueError, match=r"validation\.tsv row 2.*'class'"):
        finetune(replace(config, task__validation=str(tmp_path / "validation.tsv")), workdir=tmp_path / "run")


@pytest.mark.long
def test_the_commands(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """finetune, predict from standard input, glue with files; and the wrong config for a verb."""
    examples = write_examples("classification", tmp_path / "examples")
    recipe = tmp_path / "recipe.py"
    config = config_of("classification", encoder, examples, epochs=4.0)
    recipe.write_text(recipe_of(config))
    assert cli.run(["finetune", str(recipe), "--workdir", str(tmp_path / "run"), "--seeds", "0", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 seeds: ")

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the value\na name\n")))
    assert cli.run(["predict", str(tmp_path / "run" / "seed-0")]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(answer["scores"]) for answer in said] == [["name", "value"]] * 2
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the value\n\na name\n")))
    with pytest.raises(
        ValueError, match=r"no answer where something is empty, .*: 1 of 3, standard input line 2"
    ):
        cli.run(["predict", str(tmp_path / "run" / "seed-0")])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers == [said[0], {"error": "standard input line 2: 'sentence' is empty"}, said[1]]

    (tmp_path / "glue" / "mrpc").mkdir(parents=True)
    pairs = "".join(f"{text}\t{label}\t{int(label in text)}\n" for text, label in TEXTS)
    for split in ("train", "validation"):
        (tmp_path / "glue" / "mrpc" / f"{split}.tsv").write_text(f"sentence1\tsentence2\tlabel\n{pairs}")
    for_glue = tmp_path / "for_glue.py"
    for_glue.write_text(recipe_of(replace(config, task__train="", task__validation="")))
    arguments = ["--workdir", str(tmp_path / "scores"), "--tasks", "mrpc", "--files", str(tmp_path / "glue")]
    assert cli.run(["glue", str(for_glue), *arguments]) == 0
    table = capsys.readouterr().out.splitlines()[-4:]
    assert table[2].startswith("| mrpc | f1 / accuracy | ")
    with pytest.raises(ValueError, match="GLUE has no task 'sst3'"):
        cli.run(["glue", str(for_glue), "--workdir", str(tmp_path / "scores"), "--tasks", "sst3"])
    with pytest.raises(ValueError, match=r"task\.text is 'review', but each task of GLUE has its own"):
        cli.run(["glue", str(for_glue), *arguments, "--task.text", "review"])

    with pytest.raises(ValueError, match="this config is for classification: use bert-jax finetune"):
        cli.run(["pretrain", str(recipe), "--workdir", str(tmp_path / "other")])
    with pytest.raises(ValueError, match="for classification, which predicts no words: use bert-jax predict"):
        cli.run(["fill-mask", str(tmp_path / "run" / "seed-0"), "a [MASK]"])

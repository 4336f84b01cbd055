"""The command line: help everywhere, and one line for each thing that a person can get wrong."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bert_jax.analysis.scoring import BUCKETS
from bert_jax.cli import main as cli
from bert_jax.cli.verbs import VERBS
from bert_jax.config import Config
from bert_jax.run.pretrain import pretrain
from bert_jax.workdir.run_files import config_from_json
from data_pipeline.prepare import shards
from tests.helpers.configs import replace
from tests.helpers.paths import ROOT


@pytest.fixture(scope="module")
def workdir(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 steps."""
    workdir = tmp_path_factory.mktemp("workdir") / "run"
    assert pretrain(replace(config, train__steps=30, train__eval_every=30), workdir=workdir)
    return workdir


@pytest.fixture
def bert_jax(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    """bert_jax("verb", ...) -> (status, standard output, standard error), in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bert-jax", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, *capfd.readouterr()

    return call


@pytest.fixture
def refused(bert_jax) -> Callable[..., str]:
    """The one line that a wrong command prints."""

    def call(*arguments: object) -> str:
        status, out, err = bert_jax(*arguments)
        lines = err.strip().splitlines()
        assert status == 2, (out, err)
        assert out == ""
        assert len(lines) == 1, err
        assert lines[0].startswith("bert-jax: ")
        return lines[0]

    return call


def test_help_is_everywhere(bert_jax):
    status, out, _ = bert_jax("--help")
    assert status == 0
    assert all(verb in out for verb in VERBS)
    for verb in VERBS:
        status, out, _ = bert_jax(verb, "--help")
        assert status == 0
        assert f"usage: bert-jax {verb}" in out
    assert bert_jax()[0] == 2


def test_show_config_resolves_flags(bert_jax, recipe: Path, config: Config):
    status, out, _ = bert_jax("show-config", recipe, "--train.seed", 7, "--optimizer.learning-rate", "1e-2")
    assert status == 0
    assert config_from_json(out) == replace(config, train__seed=7, optimizer__learning_rate=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretain"], "there is no verb 'pretain'; there are prepare, inspect-data"),
        (["pretrain"], "give a config file after 'pretrain'"),
        (["pretrain", "nowhere.py", "--workdir", "x"], "config file nowhere.py does not exist"),
        (["pretrain", "RECIPE"], "Missing from bert-jax pretrain CONFIG: --workdir PATH"),
        (["show-config", "RECIPE", "--train.stpes", "3"], "--train.stpes, 3 (perhaps --train.steps?)"),
        (["show-config", "RECIPE", "--train.steps", "many"], "parsing --train.steps: invalid literal"),
        (["show-config", "RECIPE", "--model.dtype", "float8"], "invalid choice 'float8'"),
        (["show-config", "RECIPE", "--model.hidden-size", "30"], "model.hidden_size 30 is not divisible by"),
        (["show-config", "RECIPE", "--data.sequence-length", "65"], "longer than model.max_position"),
        (["export", "--workdir", "nowhere", "--out", "x"], "nowhere holds no run with a checkpoint"),
        (["inspect-data", "nowhere"], "nowhere holds no prepared dataset"),
        (["fill-mask", "nowhere", "a [MASK]"], "nowhere is neither an exported directory nor a workdir"),
        (["evaluate", "RECIPE", "--workdir", "nowhere"], "nowhere holds no run with a checkpoint"),
        (["embed", "nowhere", "--out", "a/b.npy"], "--out a/b.npy: there is no folder a; make it, or give"),
        (["embed", "nowhere", "--out", "gs://a/b.npy"], "--out gs://a/b.npy is in a bucket; files are"),
        (["explain", "nowhere", "a", "--html", "a/b.html"], "--html a/b.html: there is no folder a; make it"),
        (["explain", "nowhere", "a", "--json", "a/b.json"], "--json a/b.json: there is no folder a; make it"),
        (["inspect-data", "nowhere", "--html", "a/b.html"], "--html a/b.html: there is no folder a; make it"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_line(refused, recipe: Path, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*[str(recipe) if argument == "RECIPE" else argument for argument in arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.py"], "nothing half-written"


@pytest.mark.parametrize(
    ("recipe_", "flag", "value", "message"),
    [
        ("finetune_classification", "--train.steps", "1000000", "train.steps follows from task.epochs"),
        ("finetune_classification", "--checkpoint.every=5", None, "checkpoint.every is 5, but in a fine-tun"),
        (
            "finetune_regression",
            "--data.sequence-length",
            "128",
            "data.sequence_length follows from the task",
        ),
        ("finetune_token_classification", "--optimizer.warmup-steps", "9", "it follows from task.warmup"),
        ("finetune_question_answering", "--model.hidden-size", "64", "--model.hidden-size"),
        (
            "finetune_classification",
            "--train.eval-batches",
            "3",
            "train.eval_batches is 3, but in a fine-tun",
        ),
        ("finetune_classification", "--seeds=3", "--train.seed=3", "train.seed follows from --seeds 3"),
    ],
)
def test_a_flag_that_something_else_decides_is_refused_by_name(
    refused, tmp_path: Path, recipe_: str, flag: str, value: str | None, message: str
):
    """Even where its value is the default."""
    flags = [flag] if value is None else [flag, value]
    config = ROOT / "configs" / f"{recipe_}.py"
    assert message in refused("finetune", config, "--workdir", tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flags", "unroll"), [([], 1), (["--model.scan-unroll", "12"], 12)])
def test_a_plan_scans_the_layers_unless_a_flag_says_otherwise(monkeypatch, flags: list[str], unroll: int):
    asked = []
    monkeypatch.setattr(
        VERBS["plan"], "__call__", lambda self: asked.append(self.config.model.scan_unroll) or 0
    )
    assert cli.run(["plan", str(ROOT / "configs/bert_base.py"), "--topology", "h100:4x8", *flags]) == 0
    assert asked == [unroll]


def test_steps_do_not_go_together_with_a_budget_of_the_config_file(refused, recipe: Path, tmp_path: Path):
    recipe.write_text(
        recipe.read_text()
        + """
import dataclasses
asked = get_config()
asked = dataclasses.replace(asked, train=dataclasses.replace(asked.train, budget="1e6 tokens"))
get_config = lambda: asked
"""
    )
    flags = ["--workdir", tmp_path / "run", "--train.steps", 20]
    assert "train.steps follows from train.budget '1e6 tokens'" in refused("pretrain", recipe, *flags)


def test_glue_is_of_texts(refused, tmp_path: Path):
    config = ROOT / "configs" / "finetune_question_answering.py"
    assert "glue wants a config for texts" in refused("glue", config, "--workdir", tmp_path / "run")
    config = ROOT / "configs" / "finetune_classification.py"
    assert "--tasks has none" in refused("glue", config, "--workdir", tmp_path / "run", "--tasks")


@pytest.mark.parametrize("verb", ["fill-mask", "predict"])
def test_no_word_is_no_prediction(refused, verb: str):
    arguments = ["nowhere", "a [MASK]"] if verb == "fill-mask" else ["nowhere"]
    assert "--top is 0; it must be at least 1" in refused(verb, *arguments, "--top", "0")


def test_steps_and_a_budget_of_tokens_do_not_go_together(refused, recipe: Path, tmp_path: Path):
    flags = ["--workdir", tmp_path / "run", "--train.budget", "1e6 tokens", "--train.steps", 20]
    assert "train.steps follows from train.budget" in refused("pretrain", recipe, *flags)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "matches no file"),
        (b"", "has no text in it"),
        (b"fine\n\xff\xfe\n", "line 2: not valid UTF-8"),
    ],
)
def test_a_bad_corpus_is_one_line(refused, recipe: Path, tmp_path: Path, content, message):
    if content is not None:
        (tmp_path / "corpus.txt").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    flags = ["--data.source", f"files:{tmp_path}/corpus.txt", "--data.dir", tmp_path / "data"]
    assert message in refused("prepare", recipe, *flags)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_or_damaged_dataset_is_one_line(refused, recipe: Path, config: Config, tmp_path: Path):
    flags = ["--workdir", tmp_path / "run", "--data.dir", tmp_path / "data"]
    assert "run `bert-jax prepare CONFIG` first" in refused("pretrain", recipe, *flags)
    shutil.copytree(config.data.dir, tmp_path / "data")
    for path in (tmp_path / "data").glob("*-train.array_record*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
        path.write_bytes(content)
    assert "the files are damaged: prepare the dataset again" in refused("pretrain", recipe, *flags)


def with_small_disk(limit: int, *arguments: object) -> subprocess.CompletedProcess:
    """Runs `bert-jax` in a process whose files cannot pass `limit` bytes: it stands for a full disk."""
    program = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    program += "from bert_jax.cli.main import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_no_space_left_is_one_line(recipe: Path, tmp_path: Path):
    done = with_small_disk(20_000, "prepare", recipe, "--data.dir", tmp_path / "data")
    assert done.returncode == 2, done.stderr
    (complaint,) = done.stderr.splitlines()
    assert "it needs as much free disk as it has bytes" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.py"]


@pytest.mark.parametrize("runner", ["direct", "dataflow", "flink", "spark"])
def test_a_runner_that_is_not_installed_is_one_line(refused, recipe: Path, runner: str, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # importing it raises ImportError
    monkeypatch.delitem(sys.modules, "data_pipeline.beam", raising=False)
    assert "pip install 'bert-jax[beam]'" in refused("prepare", recipe, "--runner", runner)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.source", "files:a", "files:b", "--data.weights", "0", "0"], "one must be positive"),
        (["--data.source", "files:a", "files:b", "--data.weights", "-1", "2"], "none may be negative"),
        (["--data.source", "files:a", "files:b", "--data.weights", "1"], "1 value(s) for 2 data.source"),
        (["--data.source", "files:a", "files:a"], "has a source twice"),
    ],
)
def test_a_mixture_that_cannot_be_is_one_line(refused, recipe: Path, flags: list[str], message: str):
    complaint = refused("prepare", recipe, *flags)
    assert complaint.startswith("bert-jax: data.")
    assert message in complaint


def test_no_space_left_while_training_is_one_line(recipe: Path, tmp_path: Path):
    flags = ["--workdir", tmp_path / "run", "--train.stop-at", 2]
    done = with_small_disk(30_000, "pretrain", recipe, *flags)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "fault",
    [
        lambda planned: shards(planned)[:-1],  # zip() argument 2 is shorter than argument 1
        lambda planned: np.zeros(3) + np.zeros(4),  # operands could not be broadcast together
        lambda planned: int("many"),
    ],
)
def test_a_fault_of_the_program_keeps_its_traceback(
    recipe: Path, bert_jax, monkeypatch, tmp_path: Path, fault
):
    """A ValueError, raised from a line of ours, but not about what was given: exit status 1, not 2."""
    monkeypatch.setattr("data_pipeline.prepare.shards", fault)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"argument|broadcast|invalid literal") as raised:
        bert_jax("prepare", recipe, "--data.dir", "data")
    assert type(raised.value) is ValueError
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.py"], "nothing half-written"


def test_a_reader_that_has_had_enough_is_no_error():
    """As in `bert-jax ... | head -1`: nothing is said of it."""
    program = "from bert_jax.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.stdin.read(1); {program}", "show-config", "configs/demo.py"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate(b"go")[1] == b""
    assert process.returncode == 141


def test_prepare_says_what_it_made(bert_jax, recipe: Path, tmp_path: Path):
    status, out, _ = bert_jax("prepare", recipe, "--data.dir", tmp_path / "data")
    assert status == 0
    assert "train: " in out
    assert "rows of 64" in out
    assert f"written to {tmp_path / 'data'}" in out
    status, _, err = bert_jax("prepare", recipe, "--data.dir", tmp_path / "data")
    assert status == 2
    assert "exists already; delete it" in err


@pytest.mark.long
def test_evaluate_prints_the_loss_beside_the_baselines(bert_jax, recipe: Path, workdir: Path, config: Config):
    flags = ["--workdir", workdir, "--train.steps", 30, "--train.eval-every", 30, "--mesh.data", 8]
    status, out, _ = bert_jax("evaluate", recipe, *flags)
    assert status == 0
    values = {name: float(value) for name, value in (line.split() for line in out.splitlines())}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert values["step"] == 30
    assert values["mlm_loss"] == pytest.approx(lines[-1]["mlm_loss"], abs=1e-4)
    assert values["unigram_loss"] > 4
    assert 0.5 <= values["majority_nsp_accuracy"] < 1


@pytest.mark.long
def test_evaluate_prints_details_below_what_it_prints_without(bert_jax, refused, recipe: Path, workdir: Path):
    command = ["evaluate", recipe, "--workdir", workdir, "--train.steps", 30, "--train.eval-every", 30]
    plain = bert_jax(*command)[1]
    status, out, _ = bert_jax(*command, "--detailed", "--rows", 3)
    assert status == 0
    assert out.startswith(f"{plain}\n")
    head, *table, rest = out[len(plain) + 1 :].split("\n", 6)
    assert head.split() == ["training", "tokens", "pieces", "predictions", "mlm_accuracy", "mlm_loss"]
    for name, line in zip(BUCKETS, table, strict=True):
        assert re.fullmatch(rf"{name} +\d+ +[\d,]+( +\d\.\d{{4}} +\d+\.\d{{4}})?", line), line
    values = {line.split()[0]: float(line.split()[1]) for line in rest.splitlines() if line}
    assert 0 < values["majority_mlm_accuracy"] < 0.2
    assert values["pseudo_perplexity"] == pytest.approx(math.exp(values["nats_a_token"]), rel=1e-3)
    assert 0 < values["tokens_scored"] <= 3 * (64 - 3), "special tokens are not scored"
    assert "--rows is 0; it must be at least 1" in refused(*command, "--detailed", "--rows", 0)


@pytest.mark.long
def test_export_is_loaded_by_transformers_and_fills_masks_alike(
    bert_jax, refused, workdir: Path, tmp_path: Path
):
    out = tmp_path / "exported"
    assert bert_jax("export", "--workdir", workdir, "--out", out)[0] == 0
    assert "exists already" in refused("export", "--workdir", workdir, "--out", out)

    text = "Return the [MASK] of the object, or raise [MASK]."
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(out).eval()
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        probabilities = theirs(**encoded).logits.softmax(-1)[encoded["input_ids"] == tokenizer.mask_token_id]
    best = probabilities.topk(5)

    for directory in (out, workdir):
        status, printed, _ = bert_jax("fill-mask", directory, text)
        assert status == 0
        lines = printed.splitlines()
        assert len(lines) == 2
        for line, ids, values in zip(lines, best.indices, best.values, strict=True):
            guesses = [guess.rsplit(" ", 1) for guess in line.strip().split("   ")]
            words = [tokenizer.decode([i]).strip() or tokenizer.convert_ids_to_tokens([i])[0] for i in ids]
            assert [word for word, _ in guesses] == words
            assert [float(p) for _, p in guesses] == pytest.approx(values.tolist(), abs=1e-3)
    assert "has no [MASK]" in refused("fill-mask", out, "nothing to fill")
    assert "tokens, the model takes 64" in refused("fill-mask", out, "[MASK] " * 100)


def test_embed_writes_the_vectors_of_texts(bert_jax, refused, workdir: Path, tmp_path: Path):
    texts, out = tmp_path / "texts.txt", tmp_path / "vectors.npy"
    texts.write_text("the value of a name\n\na method\n")
    assert (
        f"1 of 3 texts are empty, and their vectors 0: {texts} line 2"
        in bert_jax("embed", workdir, "--input", texts, "--out", out)[2]
    )
    whole = np.load(out)
    texts.write_text("the value of a name\na method\n")
    assert f"{out} exists already" in refused("embed", workdir, "--input", texts, "--out", out)
    out = tmp_path / "fewer.npy"
    status, printed, _ = bert_jax("embed", workdir, "--input", texts, "--out", out, "--dimensions", 8)
    assert (status, printed) == (0, f"2 vectors of 8 numbers: {out}\n")
    np.testing.assert_allclose(np.load(out), whole[[0, 2], :8], atol=1e-5)
    for directory, flags, message in (
        (workdir, ["--dimensions", 0], "--dimensions is 0; it must be at least 1"),
        (workdir, ["--dimensions", 33], "a vector of the model has 32 numbers, not 33"),
        ("nowhere", [], "nowhere is neither an exported directory nor a workdir"),
    ):
        assert message in refused("embed", directory, "--input", texts, "--out", tmp_path / "a.npy", *flags)
    assert "is no file of vectors" in refused("embed", workdir, "--input", texts, "--out", tmp_path / "a.csv")


def test_help_names_the_column_of_the_vectors(bert_jax):
    words = re.sub(r"[│|\s]+", " ", bert_jax("embed", "--help")[1])
    assert "FILE.npy: an array of float32, a row a text; or FILE.parquet: the column vector." in words


def test_evaluate_retrieval_prints_how_well_a_model_finds(bert_jax, refused, workdir: Path, tmp_path: Path):
    documents = [{"_id": str(i), "text": f"{word} of a name"} for i, word in enumerate(("value", "method"))]
    for name, objects in (("corpus", documents), ("queries", documents[:1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(found) + "\n" for found in objects))
    assert "has no qrels/test.tsv or qrels.tsv" in refused("evaluate-retrieval", workdir, "--files", tmp_path)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t0\t1\n")
    status, printed, _ = bert_jax("evaluate-retrieval", workdir, "--files", tmp_path)
    assert status == 0
    names = ["ndcg@10", "mrr@10", "map@100", "recall@1", "recall@10", "recall@100"]
    assert [line.split() for line in printed.splitlines()] == [[name, "1.0000"] for name in names]


def test_an_exported_folder_that_is_damaged_is_one_line(bert_jax, refused, workdir: Path, tmp_path: Path):
    out = tmp_path / "exported"
    assert bert_jax("export", "--workdir", workdir, "--out", out)[0] == 0
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "model.safetensors is damaged" in refused("fill-mask", out, "a [MASK]")
    (out / "config.json").write_text('{"model_type": "gpt2"}')
    assert "of a 'gpt2' model; known are bert" in refused("fill-mask", out, "a [MASK]")
    (out / "config.json").write_text("{")
    assert "config.json is not JSON" in refused("fill-mask", out, "a [MASK]")
    shutil.rmtree(out)
    assert bert_jax("export", "--workdir", workdir, "--out", out)[0] == 0
    (out / "tokenizer.json").write_text("{")
    assert "tokenizer.json is damaged" in refused("fill-mask", out, "a [MASK]")
    (out / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused("fill-mask", out, "a [MASK]")


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "--workdir", "nowhere"),
        ("compare", "nowhere", "nowhere"),
        ("export", "--workdir", "nowhere", "--out", "somewhere"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_look_at_a_run_leaves_it_its_accelerator(
    bert_jax: Callable, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert bert_jax(*arguments)[0] == 2
    assert os.environ["JAX_PLATFORMS"] == "cpu"

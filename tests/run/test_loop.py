"""Runs: stopped anywhere and resumed, they end with the same bits. Mostly with real processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.config import Config, MeshConfig
from bert_jax.interop.load import load_workdir
from bert_jax.parallel import sharding
from bert_jax.run import loop
from bert_jax.run.pretrain import pretrain
from bert_jax.training.step import TrainState, init_state, jit_train_step
from bert_jax.workdir import run_files
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.metrics_file import rewind
from bert_jax.workdir.progress import Progress
from data_pipeline.prepare import prepare
from tests.helpers.configs import replace, spec_of
from tests.helpers.data import real_documents
from tests.helpers.runs import assert_identical, assert_near, finish, metrics, start, state


@pytest.fixture
def run(recipe: Path, tmp_path: Path) -> Callable[..., str]:
    """run("--train.stop-at", "7") runs the tiny config in tmp_path/run; returns what it printed."""

    def run(*flags: str, workdir: str = "run", status: int = 0, compiles: bool = False) -> str:
        """`compiles`: does not take compiled code from another process."""
        environment = {
            n: v for n, v in os.environ.items() if not (compiles and n.startswith("JAX_COMPILATION"))
        }
        return finish(start(recipe, tmp_path / workdir, *flags, env=environment), status=status)

    return run


@pytest.mark.long
def test_resume_is_bit_exact(run, config: Config, tmp_path: Path):
    """12 steps at once; 7, stop, and 5 more in another process. The epoch ends on the way."""
    few = tmp_path / "few.txt"
    few.write_text("\n\n".join("\n".join(lines) for lines in real_documents(20)), encoding="utf-8")
    data = replace(config, data__source=f"files:{few}", data__dir=str(tmp_path / "few")).data
    rows = prepare(data).rows["train"]
    batch = -(-rows // 10) // 2 * 2
    assert 7 * batch < rows < 12 * batch, "an epoch boundary is within the second part"
    flags = ["--data.source", data.source, "--data.dir", data.dir, "--train.steps", "12"]
    flags += ["--train.global-batch-size", str(batch), "--train.microbatches", "2"]
    run(*flags, workdir="at once")
    run(*flags, "--train.stop-at", "7")
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, 8))
    output = run(*flags, compiles=True)
    assert "resuming from step 7" in output
    assert_identical(tmp_path / "run", tmp_path / "at once")


@pytest.mark.long
@pytest.mark.parametrize("name", ["muon", "stable_adamw"])
def test_every_state_of_an_optimizer_is_resumed(config: Config, tmp_path: Path, name: str):
    """With the moving average, on eight devices that share it."""
    config = replace(
        config, optimizer__name=name, optimizer__ema_decay=0.9, train__steps=6, train__eval_every=2,
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )  # fmt: skip
    assert pretrain(config, workdir=tmp_path / "at once")
    for stop in (3, None):
        assert pretrain(replace(config, train__stop_at=stop), workdir=tmp_path / "stopped")
    assert_identical(tmp_path / "at once", tmp_path / "stopped")


@pytest.mark.long
def test_unrolled_layers_are_stacked_in_a_checkpoint(config: Config, tmp_path: Path):
    """One layout for both: stopped in one way it goes on in the other, and in its own with the same bits."""
    scanned = replace(config, train__steps=6)
    unrolled = replace(scanned, model__scan_unroll=2)
    assert pretrain(scanned, workdir=tmp_path / "scanned")
    assert pretrain(unrolled, workdir=tmp_path / "unrolled")
    assert pretrain(replace(unrolled, train__stop_at=3), workdir=tmp_path / "stopped")
    shutil.copytree(tmp_path / "stopped", tmp_path / "changed")
    assert pretrain(unrolled, workdir=tmp_path / "stopped")
    assert pretrain(scanned, workdir=tmp_path / "changed")
    assert_identical(tmp_path / "unrolled", tmp_path / "stopped")
    for workdir in ("unrolled", "changed"):
        assert_near(tmp_path / "scanned", tmp_path / workdir, atol=1e-5)
    for item in ("params", "optimizer"):
        one, other = (tmp_path / workdir / "checkpoints/6" / item for workdir in ("scanned", "unrolled"))
        assert (one / "_METADATA").read_bytes() == (other / "_METADATA").read_bytes()


@pytest.mark.long
def test_a_run_writes_what_the_contract_says(run, config: Config, tmp_path: Path):
    output = run("--checkpoint.every", "8", "--checkpoint.keep", "2")
    workdir = tmp_path / "run"
    assert run_files.load_config(workdir).train.steps == 20
    lines = metrics(workdir)
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert {
        "loss",
        "mlm_loss",
        "mlm_accuracy",
        "nsp_loss",
        "nsp_accuracy",
        "learning_rate",
        "grad_norm",
    } < set(lines[0])
    assert [line["step"] for line in metrics(workdir, "validation")] == [10, 20]
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["16", "20"]
    assert (workdir / "tokenizer" / "tokenizer.json").exists()
    assert next((workdir / "tensorboard").iterdir()).stat().st_size > 1000
    assert "step 20/20 validation" in output
    again = run("--checkpoint.every", "8", "--checkpoint.keep", "2")
    assert "resuming from step 20" in again
    assert len(metrics(workdir)) == 20


@pytest.mark.long
def test_the_loss_goes_down_on_real_text(run, tmp_path: Path):
    flags = ["--train.steps", "60", "--train.log-every", "10", "--train.eval-every", "60"]
    run(*flags, "--optimizer.learning-rate", "5e-3")
    lines = metrics(tmp_path / "run")
    assert lines[-1]["mlm_loss"] < lines[0]["mlm_loss"] - 0.5


@pytest.mark.long
def test_a_loss_that_is_not_finite_is_not_saved(run, tmp_path: Path):
    flags = ["--optimizer.learning-rate", "1e30", "--optimizer.clip-norm", "1e30", "--checkpoint.every", "1"]
    flags += ["--train.max-consecutive-skips", "3"]
    output = run(*flags, status=2)
    assert "3 steps in a row, up to" in output.splitlines()[-1]
    assert "a lower optimizer.learning_rate" in output.lower()
    saved = state(tmp_path / "run")
    assert saved[".step"] < 20
    assert all(np.isfinite(array).all() for array in saved.values())


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.seed", "1"], "holds another run: there train.seed is 0, not 1"),
        (["--model.num-hidden-layers", "1"], "holds another run: there model.num_hidden_layers is 2, not 1"),
        (
            ["--optimizer.learning-rate", "1"],
            "holds another run: there optimizer.learning_rate is 0.001, not 1.0",
        ),
    ],
)
def test_the_workdir_of_another_config_is_refused(run, finished: Path, tmp_path: Path, flags, message):
    (tmp_path / "run").symlink_to(finished)
    output = run(*flags, status=2)
    assert message in output
    assert len(output.splitlines()) == 1


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of three steps."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    assert pretrain(replace(config, train__stop_at=3), workdir=workdir)
    return workdir


@pytest.mark.long
def test_the_workdir_of_another_dataset_is_refused(config: Config, finished: Path, tmp_path: Path):
    other = replace(config, data__dir=str(tmp_path / "other"), data__seed=5)
    prepare(other.data)
    fields = json.loads((Path(other.data.dir) / "manifest.json").read_text())
    fields["settings"]["seed"] = 0  # as if the corpus had changed, and not the config
    (Path(other.data.dir) / "manifest.json").write_text(json.dumps(fields))
    other = replace(other, data__seed=0)
    with pytest.raises(ValueError, match="was trained on another dataset than"):
        pretrain(other, workdir=finished)


def test_a_tokenizer_larger_than_the_vocabulary_of_the_model_is_refused(config: Config, tmp_path: Path):
    fields = json.loads((Path(config.data.dir) / "manifest.json").read_text())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(fields | {"vocab_size": 701}))
    with pytest.raises(ValueError, match=r"has 701 pieces, more than model\.vocab_size 700"):
        pretrain(replace(config, data__dir=str(tmp_path / "data")), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_that_died_before_its_first_checkpoint_is_begun_anew(config: Config, tmp_path: Path):
    """With another config and another tokenizer, if need be: nothing of the first start stays."""
    workdir = tmp_path / "run"
    (workdir / "tokenizer").mkdir(parents=True)
    (workdir / "tokenizer" / "tokenizer.json").write_text("of another corpus")
    run_files.write(spec_of(replace(config, train__seed=9)), workdir)
    (workdir / "checkpoints" / "1.orbax-checkpoint-tmp-0").mkdir(parents=True)
    assert pretrain(replace(config, train__stop_at=1), workdir=workdir)
    assert run_files.load_config(workdir).train.seed == 0
    copied, original = (Path(p) / "tokenizer" / "tokenizer.json" for p in (workdir, config.data.dir))
    assert copied.read_text() == original.read_text()
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["1"]


def test_looking_at_a_run_leaves_what_it_is_writing(config: Config, finished: Path, tmp_path: Path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "checkpoints" / "9.orbax-checkpoint-tmp-0").mkdir()
    assert load_workdir(workdir)[2] == 3
    assert (workdir / "checkpoints" / "9.orbax-checkpoint-tmp-0").exists()


def test_saving_is_allowed_where_the_loop_forbids_copies(config: Config, tmp_path: Path):
    """On a GPU every save copies from the device. On a CPU only what NumPy cannot share memory with."""
    x = jnp.ones(8, jnp.int4)
    with jax.transfer_guard("disallow"):
        with pytest.raises(RuntimeError, match="Disallowed"):
            np.asarray(x)
        with Checkpoints(tmp_path, spec_of(config)) as checkpoints:
            checkpoints.save(1, TrainState(x, {"x": x}, ()), Progress())
            assert checkpoints.latest_step() == 1


def test_a_folder_that_is_no_workdir_is_not_written_to(config: Config, tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(ValueError, match=r"holds no run, but thesis\.txt"):
        pretrain(config, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.long
def test_a_checkpoint_restores_onto_another_mesh(config: Config, finished: Path):
    expected = state(finished)
    with Checkpoints(finished, spec_of(config)) as checkpoints:
        for data, fsdp, tensor in ((8, 1, 1), (2, 2, 2), (1, 4, 2)):
            mesh = sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
            restored, _ = checkpoints.restore(mesh)
            query = restored.params["encoder"]["layers"]["query"]["kernel"]
            assert query.sharding == sharding.named(mesh, "layers", "embed", "heads")
            for path, leaf in jax.tree.leaves_with_path(restored):
                assert (np.asarray(leaf) == expected[jax.tree_util.keystr(path)]).all()


@pytest.mark.long
def test_a_checkpoint_of_other_shapes_is_refused_by_name(config: Config, finished: Path, tmp_path: Path):
    """Even if config and metadata agree: Orbax alone would restore what is there."""
    other = init_state(spec_of(replace(config, model__intermediate_size=96)))
    with Checkpoints(tmp_path, spec_of(config)) as checkpoints:
        checkpoints.save(5, other, Progress())
    with Checkpoints(tmp_path, spec_of(config)) as checkpoints:
        mesh = sharding.make_mesh(MeshConfig(), devices=jax.devices()[:1])
        with pytest.raises(ValueError, match=r"does not fit the model: .*intermediate.*96"):
            checkpoints.restore(mesh)


def test_metrics_are_rewound_to_the_step_that_the_run_resumes_from(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "split": "train"}) + "\n" for step in (1, 2, 3, 4)]
    path.write_text("".join(lines) + '{"step": 5, "spl')  # killed while it wrote
    rewind(path, 2)
    assert path.read_text() == "".join(lines[:2])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.long
def test_a_checkpoint_is_of_its_own_step_though_training_goes_on_while_it_is_written(run, tmp_path: Path):
    """The next step may reuse the memory of the state that is being saved."""
    run("--checkpoint.every", "3", "--checkpoint.keep", "9")
    run("--train.stop-at", "9", workdir="stopped")
    on_the_way, stopped = state(tmp_path / "run", step=9), state(tmp_path / "stopped")
    assert [name for name in stopped if stopped[name].tobytes() != on_the_way[name].tobytes()] == []
    assert load_workdir(tmp_path / "run")[2] == 20
    assert load_workdir(tmp_path / "run", step=3)[2] == 3
    with pytest.raises(
        FileNotFoundError, match=r"no checkpoint of step 4 \(there: 3, 6, 9, 12, 15, 18, 20\)"
    ):
        load_workdir(tmp_path / "run", step=4)


@pytest.mark.long
def test_a_step_is_compiled_once(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the loop does between fifty steps: logging, evaluation, checkpoints."""
    made = []

    def jit_and_keep(*arguments: Any) -> Any:
        made.append(jit_train_step(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "jit_train_step", jit_and_keep)
    fifty = {"train__steps": 50, "train__eval_every": 20, "train__log_every": 5, "checkpoint__every": 20}
    pretrain(replace(config, **fifty), workdir=tmp_path / "run")
    assert [step._cache_size() for step in made] == [1]


@pytest.mark.long
def test_a_step_is_dispatched_before_the_metrics_of_the_one_before_are_read(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The device has work while the host logs."""
    order, steps = [], {}

    def jit_and_note(*arguments: Any) -> Any:
        train_step = jit_train_step(*arguments)

        def noted(*inputs: Any) -> Any:
            state, metrics = train_step(*inputs)
            steps[id(metrics)] = metrics, len(steps) + 1  # kept, so that no other one gets its id
            order.append(f"dispatch {len(steps)}")
            return state, metrics

        return noted

    def device_get_and_note(tree: Any) -> Any:
        if id(tree) in steps:
            order.append(f"read {steps[id(tree)][1]}")
        return device_get(tree)

    device_get = jax.device_get
    monkeypatch.setattr(loop, "jit_train_step", jit_and_note)
    monkeypatch.setattr(jax, "device_get", device_get_and_note)
    pretrain(replace(config, train__steps=6, train__eval_every=100), workdir=tmp_path / "run")
    expected = ["dispatch 1"]
    for step in range(1, 6):
        expected += [f"dispatch {step + 1}", f"read {step}"]
    assert order == [*expected, "read 6"]

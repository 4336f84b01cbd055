"""Folders for Transformers: what a run was trained for is the class that they are of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.cli import main as cli
from bert_jax.config import Config
from bert_jax.inference.fill_mask import token_logits
from bert_jax.interop.export import export
from bert_jax.interop.load import load_model
from bert_jax.objectives import mlm
from bert_jax.run.pretrain import pretrain
from bert_jax.training.network import parameters
from bert_jax.training.step import init_state
from bert_jax.workdir import run_files
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.progress import Progress
from data_pipeline.errors import UserError
from data_pipeline.prepare import prepare
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import metrics

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir of two steps on full sentences, which have no pairs."""
    folder = tmp_path_factory.mktemp("singles")
    config = replace(
        config,
        data__input_format="full_sentences",
        data__max_sequences_per_row=1,
        data__dir=str(folder / "data"),
        optimizer__warmup_steps=1,
        train__steps=2,
    )
    prepare(config.data)
    assert pretrain(config, workdir=folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export(run, out=run.parent / "out")
    return run.parent / "out"


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(folder / "model.safetensors")


def is_of_pairs(name: str) -> bool:
    return name.startswith(("bert.pooler.", "cls.seq_relationship."))


@pytest.mark.long
def test_rows_without_pairs_train_masked_tokens_alone(run: Path, exported: Path):
    network = run_files.load_spec(run).network
    assert network.objective is mlm
    assert parameters(network)["objective"].keys() == {"mlm"}
    for split in ("train", "validation"):
        names = {name for line in metrics(run, split) for name in line}
        assert {"loss", "mlm_loss", "mlm_accuracy"} < names
        assert not any(name.startswith(("nsp", "sop")) for name in names)
    assert not any(map(is_of_pairs, tensors_of(exported)))
    card = (exported / "README.md").read_text()
    assert "BertForMaskedLM" in card
    assert "AutoModelForMaskedLM" in card


@pytest.mark.long
@pytest.mark.parametrize("lively", [False, True], ids=["as it was trained", "with lively weights"])
def test_transformers_loads_it_as_a_masked_language_model(
    exported: Path, folder_of: Callable[..., Path], lively: bool
):
    """Nothing is missing, nothing is left over, and the logits are the same."""
    folder = folder_of("mlm") if lively else exported
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs) is transformers.BertForMaskedLM
    assert not any(info.values()), info
    network, params, tokenizer = load_model(folder)
    encoding = tokenizer.huggingface.encode("the [MASK] of an [MASK]: see the documentation")
    ids = np.array([encoding.ids], np.int32)
    columns = np.arange(ids.shape[1], dtype=np.int32)[None]
    batch = {
        "token_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": columns,
        "token_type_ids": np.zeros_like(ids),
        "mlm_positions": columns,
    }
    found = np.asarray(jax.jit(token_logits, static_argnums=0)(network, params, batch))
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(ids).long()).logits[0].numpy()
    assert np.abs(found[:, : network.model.vocab_size] - expected).max() <= TOLERANCE


def test_masked_lm_drops_the_pooler_and_the_next_sentence_head(config: Config, tmp_path: Path):
    """Every other tensor stays as it is."""
    spec = spec_of(config)
    run_files.write(spec, tmp_path)
    (tmp_path / "tokenizer").symlink_to(Path(config.data.dir) / "tokenizer")
    with Checkpoints(tmp_path, spec) as checkpoints:
        checkpoints.save(0, init_state(spec), Progress())
    for masked_lm, kind in ((False, "ForPreTraining"), (True, "ForMaskedLM")):
        export(tmp_path, out=tmp_path / kind, masked_lm=masked_lm)
        assert transformers.AutoConfig.from_pretrained(tmp_path / kind).architectures == [f"Bert{kind}"]
    everything, words = tensors_of(tmp_path / "ForPreTraining"), tensors_of(tmp_path / "ForMaskedLM")
    assert words.keys() == {name for name in everything if not is_of_pairs(name)} < everything.keys()
    for name, array in words.items():
        np.testing.assert_array_equal(array, everything[name])


def test_masked_lm_changes_nothing_of_a_run_without_pairs(run: Path, exported: Path, tmp_path: Path):
    export(run, out=tmp_path / "out", masked_lm=True)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (exported / name).read_bytes()


@pytest.fixture(scope="module")
def several(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with checkpoints of steps 1 to 5, each with weights of its own."""
    spec, workdir = spec_of(replace(config, checkpoint__keep=5)), tmp_path_factory.mktemp("several")
    run_files.write(spec, workdir)
    (workdir / "tokenizer").symlink_to(Path(config.data.dir) / "tokenizer")
    state = init_state(spec)
    with Checkpoints(workdir, spec) as checkpoints:
        for step in range(1, 6):
            key = jax.random.key(step)
            params = jax.tree.map(
                lambda x, k=key: x + jax.random.normal(jax.random.fold_in(k, x.size), x.shape), state.params
            )
            checkpoints.save(step, state._replace(params=params), Progress())
    return workdir


@pytest.mark.long
def test_an_average_is_the_mean_of_the_last_checkpoints(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """The output and the model card say of which."""
    for step in range(1, 6):
        export(several, out=tmp_path / f"step-{step}", step=step)
    for flags, steps in (
        (["--average", "5"], (1, 2, 3, 4, 5)),
        (["--average", "3", "--step", "4"], (2, 3, 4)),
    ):
        out = tmp_path / f"mean-{len(steps)}"
        assert cli.run(["export", "--workdir", str(several), "--out", str(out), *flags]) == 0
        assert f"the mean of steps {', '.join(map(str, steps))} of {several}" in capsys.readouterr().out
        each = [tensors_of(tmp_path / f"step-{step}") for step in steps]
        for name, array in tensors_of(out).items():
            expected = np.mean([np.float64(tensors[name]) for tensors in each], axis=0)
            np.testing.assert_allclose(array, expected, atol=1e-6, err_msg=name)
            assert array.dtype == np.float32
        card = (out / "README.md").read_text()
        assert f"- Weights: the mean of the checkpoints of steps {', '.join(map(str, steps))}\n" in card
        assert f"- Steps: {steps[-1]} of" in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--average", "6"], "--average 6 is more than the checkpoints that .* has (1, 2, 3, 4, 5); "),
        (["--average", "3", "--step", "2"], "--average 3 is more than .* has up to step 2 (1, 2); "),
        (["--average", "0"], "--average is 0; it must be at least 1"),
        (["--average", "2", "--ema"], "--average and --ema do not go together"),
        (["--average", "2", "--every-checkpoint"], "--average and --every-checkpoint do not go together"),
        (["--ema"], "has no moving average: its optimizer.ema_decay is None"),
    ],
)
def test_an_average_that_cannot_be_had_is_refused(
    several: Path, tmp_path: Path, flags: list[str], message: str
):
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(UserError, match=pattern):
        cli.run(["export", "--workdir", str(several), "--out", str(tmp_path / "out"), *flags])
    assert not (tmp_path / "out").exists()

"""A run starts from published weights, or from those of another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.config import Config, MeshConfig
from bert_jax.config.files import to_json
from bert_jax.interop import huggingface, initialize
from bert_jax.interop.huggingface import Tensors
from bert_jax.models import bert as model
from bert_jax.parallel import sharding
from bert_jax.run.loop import pretrain
from bert_jax.training.step import TrainState, jit_init_state
from bert_jax.workdir.checkpoint import Checkpoints
from tests.helpers.configs import replace
from tests.helpers.runs import metrics

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def transformers_bert(config: Config, kind: type = transformers.BertForPreTraining) -> torch.nn.Module:
    torch.manual_seed(0)
    fields = {name: getattr(config.model, name) for name in huggingface.CONFIG_FIELDS}
    return kind(transformers.BertConfig(**fields)).eval()


@pytest.fixture
def published(config: Config, tmp_path: Path) -> Path:
    """What Transformers saves, with the tokenizer of the tiny dataset."""
    folder = tmp_path / "published"
    transformers_bert(config).save_pretrained(folder)
    shutil.copytree(Path(config.data.dir) / "tokenizer", folder, dirs_exist_ok=True)
    return folder


def started(config: Config, source: Path) -> TrainState:
    mesh = sharding.make_mesh(MESH)
    return initialize.start_from(source, config, mesh, jit_init_state(config, mesh)())


def tensors(config: Config, state: TrainState) -> Tensors:
    return huggingface.to_tensors(config.model, jax.device_get(state.params))


def assert_identical(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


def save_run(config: Config, workdir: Path, *, step: int = 3) -> TrainState:
    """A workdir with a checkpoint."""
    state = jit_init_state(config, sharding.make_mesh(MESH))()._replace(step=np.asarray(step, np.int32))
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(config))
    shutil.copytree(Path(config.data.dir) / "tokenizer", workdir / "tokenizer")
    with Checkpoints(workdir, config) as checkpoints:
        checkpoints.save(step, state)
    return state


def test_from_hugging_face(config: Config, published: Path):
    """Every number, laid out as the mesh wants it; step and moments are those of a new run."""
    state = started(config, published)
    saved = safetensors.numpy.load_file(published / "model.safetensors")
    assert_identical(tensors(config, state), {name: saved[name] for name in tensors(config, state)})
    fresh = jit_init_state(config, sharding.make_mesh(MESH))()
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, fresh)
    for left, right in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(fresh.opt_state), strict=True):
        np.testing.assert_array_equal(left, right)


def test_heads_that_the_source_lacks_stay_random_and_are_said(
    config: Config, published: Path, caplog: pytest.LogCaptureFixture
):
    transformers_bert(config, transformers.BertForMaskedLM).save_pretrained(published)
    caplog.set_level("INFO")
    state = started(config, published)
    assert "it lacks nsp, pooler, which stay random" in caplog.text
    fresh = jit_init_state(config, sharding.make_mesh(MESH))().params
    np.testing.assert_array_equal(state.params["nsp"]["kernel"], fresh["nsp"]["kernel"])
    assert not np.array_equal(state.params["mlm_transform"]["kernel"], fresh["mlm_transform"]["kernel"])


@pytest.mark.parametrize("positions", [64, 40, 150])
def test_from_another_run_with_more_or_fewer_positions(config: Config, tmp_path: Path, positions: int):
    """Fewer: the first ones. More: the first ones again."""
    saved = tensors(config, save_run(replace(config, train__seed=5), tmp_path / "first"))
    length = min(positions, 64)
    second = replace(config, model__max_position_embeddings=positions, data__sequence_length=length)
    state = tensors(second, started(second, tmp_path / "first"))
    name = "bert.embeddings.position_embeddings.weight"
    wanted = saved.pop(name)[np.arange(positions) % 64]
    np.testing.assert_array_equal(state.pop(name), wanted)
    assert_identical(state, saved)


def save_with_tensorflow(config: Config, theirs: torch.nn.Module, folder: Path) -> None:
    """As google-research/bert writes it: run_pretraining.py with its names, and the optimizer's variables."""
    import tensorflow as tf

    folder.mkdir()
    fields = {name: getattr(config.model, name) for name in huggingface.CONFIG_FIELDS}
    del fields["layer_norm_eps"]
    (folder / "bert_config.json").write_text(json.dumps(fields | {"hidden_act": "gelu"}))
    renamed = {
        "embeddings.LayerNorm.weight": "embeddings/LayerNorm/gamma",
        ".LayerNorm.weight": "/LayerNorm/gamma",
        ".LayerNorm.bias": "/LayerNorm/beta",
        "predictions.bias": "predictions/output_bias",
        "seq_relationship.weight": "seq_relationship/output_weights",
        "seq_relationship.bias": "seq_relationship/output_bias",
        "_embeddings.weight": "_embeddings",
        ".weight": "/kernel",
    }
    with tf.Graph().as_default():
        variables = {}
        for name, tensor in theirs.state_dict().items():
            if "decoder" in name or "position_ids" in name:
                continue
            array = tensor.numpy()
            for ours, there in renamed.items():
                name = name.replace(ours, there)
            array = array.T if name.endswith("/kernel") else array
            name = name.replace("layer.", "layer_").replace(".", "/")
            variables[name] = tf.compat.v1.get_variable(name, initializer=array)
            variables[f"{name}/adam_m"] = tf.compat.v1.get_variable(f"{name}/adam_m", initializer=array * 0)
        variables["global_step"] = tf.compat.v1.train.get_or_create_global_step()
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.train.Saver(variables).save(session, str(folder / "bert_model.ckpt"))


def test_from_tensorflow(config: Config, tmp_path: Path):
    """Written by TensorFlow's own saver; the same logits, with the gelu that google-research/bert has."""
    tanh = replace(config, model__hidden_act="gelu_new")
    theirs = transformers_bert(tanh)
    save_with_tensorflow(config, theirs, tmp_path / "published")
    shutil.copytree(Path(config.data.dir) / "tokenizer", tmp_path / "published", dirs_exist_ok=True)
    state = started(tanh, tmp_path / "published")
    written = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert_identical(tensors(tanh, state), {name: written[name] for name in tensors(tanh, state)})
    ids = np.arange(5, 45, dtype=np.int32)[None]
    batch = {
        "token_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.arange(40, dtype=np.int32)[None],
        "token_type_ids": np.zeros_like(ids),
        "mlm_positions": np.arange(40, dtype=np.int32)[None],
        "cls_positions": np.zeros((1, 1), np.int32),
    }
    ours = np.asarray(jax.jit(model.apply, static_argnums=0)(tanh.model, state.params, batch).mlm_BxKxV)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids.astype(np.int64))).prediction_logits.numpy()
    assert np.abs(ours[..., : config.model.vocab_size] - expected).max() <= 2e-5


def test_a_folder_of_hugging_face_may_have_a_config_of_tensorflow_left_in_it(config: Config, published: Path):
    (published / "bert_config.json").write_text("{}")
    started(config, published)


def test_a_finetuned_run_gives_its_best_weights(config: Config, tmp_path: Path):
    """Not its latest ones: as `export` and `predict` do."""
    tuned = replace(config, model__head="regression", checkpoint__best="pearson", init__source="elsewhere")
    best = save_run(tuned, tmp_path / "run", step=1)
    latest = best._replace(step=best.step + 2, params=jax.tree.map(lambda leaf: leaf + 1, best.params))
    with Checkpoints(tmp_path / "run", tuned) as checkpoints:
        checkpoints.save(3, latest)
    lines = [{"step": s, "split": "validation", "pearson": value} for s, value in ((1, 0.9), (3, 0.1))]
    (tmp_path / "run/metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    state = started(config, tmp_path / "run")
    np.testing.assert_array_equal(state.params["embeddings"]["word"], best.params["embeddings"]["word"])


def spoil_tensors(folder: Path, change) -> None:
    saved = safetensors.numpy.load_file(folder / "model.safetensors")
    change(saved)
    safetensors.numpy.save_file(saved, folder / "model.safetensors")


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
REFUSED = {
    "nothing is there": (shutil.rmtree, "has no config.json"),
    "only a pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "is a pickle, which could run code: have Transformers save it again",
    ),
    "a tensor is missing": (
        lambda folder: spoil_tensors(folder, lambda saved: saved.pop(QUERY)),
        f"have no tensor {QUERY}",
    ),
    "half a head is missing": (
        lambda folder: spoil_tensors(folder, lambda saved: saved.pop("cls.seq_relationship.bias")),
        "have no tensor cls.seq_relationship.bias",
    ),
    "a tensor too many": (
        lambda folder: spoil_tensors(folder, lambda saved: saved.update({"classifier.bias": np.zeros(2)})),
        "a tensor classifier.bias that BERT does not have",
    ),
    "another shape": (
        lambda folder: spoil_tensors(folder, lambda saved: saved.update({QUERY: np.zeros((32, 31))})),
        "does not fit the model",
    ),
    "another tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text(
            (folder / "tokenizer.json").read_text().replace('"[MASK]"', '"<mask>"')
        ),
        r"as piece 4, not '<mask>' as init.source .*: prepare the data with the tokenizer of the source",
    ),
    "a tokenizer that keeps the case": (
        lambda folder: (folder / "tokenizer.json").write_text(
            json.dumps(json.loads((folder / "tokenizer.json").read_text()) | {"normalizer": None})
        ),
        r"of 'The Café of PARIS', where that of init.source .*data\.tokenizer\.lowercase",
    ),
    "a run that was killed early": (
        lambda folder: (folder / "checkpoints").mkdir(),
        "is a run that has no checkpoint yet",
    ),
    "a config of something else": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "roberta"}'),
        "config.json is of a 'roberta' model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_started_from_is_refused(config: Config, published: Path, name: str):
    spoil, message = REFUSED[name]
    spoil(published)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        started(config, published)


def test_weights_of_another_model_name_the_flag(config: Config, published: Path):
    with pytest.raises(ValueError, match=r"have hidden_size 32, not 64: use --model.hidden-size 32"):
        started(replace(config, model__hidden_size=64), published)
    with pytest.raises(ValueError, match=r"hidden_act gelu, not relu: use --model.hidden-act gelu"):
        started(replace(config, model__hidden_act="relu"), published)


def test_a_second_phase_goes_on_where_the_first_one_was_and_does_not_need_it_again(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first, second = tmp_path / "first", tmp_path / "second"
    assert pretrain(config, workdir=first)
    config = replace(config, init__source=str(first), train__eval_every=20)
    caplog.set_level("INFO")
    assert pretrain(replace(config, train__stop_at=4), workdir=second)
    assert f"starting from the weights of {first}" in caplog.text
    assert metrics(second)[0]["mlm_loss"] < metrics(first)[2]["mlm_loss"], (
        "it knows what the first one learned"
    )
    shutil.rmtree(first)
    assert pretrain(replace(config, train__stop_at=8), workdir=second)
    assert [line["step"] for line in metrics(second)] == list(range(1, 9))

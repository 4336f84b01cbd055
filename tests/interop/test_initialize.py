"""A run starts from published weights, or from those of another run."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers

from bert_jax.config import (
    BertConfig,
    ClassificationConfig,
    Config,
    InitConfig,
    MeshConfig,
    MlmConfig,
    MlmNspConfig,
    ModelConfig,
    RegressionConfig,
    TaskConfig,
)
from bert_jax.inference.fill_mask import token_logits
from bert_jax.interop import huggingface, initialize
from bert_jax.interop.huggingface import Tensors
from bert_jax.models import bert
from bert_jax.parallel import sharding
from bert_jax.parallel.platform import Platform
from bert_jax.run.pretrain import pretrain
from bert_jax.tasks import task_of
from bert_jax.training.network import Network
from bert_jax.training.run_spec import RunSpec, best_metric
from bert_jax.training.step import TrainState, jit_init_state
from bert_jax.workdir import run_files
from bert_jax.workdir.checkpoint import Checkpoints
from bert_jax.workdir.progress import Progress
from tests.helpers.configs import replace, spec_of
from tests.helpers.runs import metrics

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def transformers_bert(network: Network) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = getattr(transformers, network.huggingface_class)
    return kind(transformers.BertConfig(**huggingface.to_config(network))).eval()


def publish(config: Config, network: Network, folder: Path) -> Path:
    """What Transformers saves, with the tokenizer of the tiny dataset."""
    transformers_bert(network).save_pretrained(folder)
    shutil.copytree(Path(config.data.dir) / "tokenizer", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def published(config: Config, tmp_path: Path) -> Path:
    """A BertForPreTraining."""
    return publish(config, spec_of(config).network, tmp_path / "published")


def finetuning(config: Config, task: TaskConfig) -> RunSpec:
    """Of the tiny encoder."""
    asked = Config(model=ModelConfig(), task=task, init=InitConfig(source="elsewhere"))
    network = Network(config.model, task_of(task), task)
    return dataclasses.replace(
        spec_of(config), config=asked, network=network, best=best_metric(network, None)
    )


@functools.cache
def fresh(spec: RunSpec) -> TrainState:
    return jit_init_state(spec, sharding.make_mesh(MESH))()


def started(spec: RunSpec, source: Path) -> TrainState:
    return initialize.start_from(source, spec, sharding.make_mesh(MESH), fresh(spec))


def tensors(spec: RunSpec, state: TrainState) -> Tensors:
    return huggingface.to_tensors(spec.network, jax.device_get(state.params))


def assert_identical(one: Tensors, other: Tensors) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if one[name].tobytes() != other[name].tobytes()] == []


def save_run(
    config: Config, spec: RunSpec, workdir: Path, *, step: int = 3, validation: dict[str, float] | None = None
) -> TrainState:
    """A workdir with a checkpoint, with no number of a fresh state; `validation` says how good it is."""
    state = fresh(spec)
    params = jax.tree.map(lambda leaf: leaf + 0.5, state.params)
    state = state._replace(step=np.asarray(step, np.int32), params=params)
    workdir.mkdir()
    run_files.write(spec, workdir)
    shutil.copytree(Path(config.data.dir) / "tokenizer", workdir / "tokenizer")
    with Checkpoints(workdir, spec) as checkpoints:
        checkpoints.save(step, state, Progress(), validation=validation)
    return state


def test_from_hugging_face(config: Config, published: Path):
    """Every number, laid out as the mesh wants it; step and moments are those of a new run."""
    spec = spec_of(config)
    state = started(spec, published)
    saved = safetensors.numpy.load_file(published / "model.safetensors")
    assert_identical(tensors(spec, state), {name: saved[name] for name in tensors(spec, state)})
    new = fresh(spec)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == jax.tree.map(lambda leaf: leaf.sharding, new)
    for left, right in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(new.opt_state), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("platform", "asked", "dtype"),
    [
        (Platform("cpu"), "auto", "float32"),
        (Platform("cuda", 9.0), "auto", "bfloat16"),
        (Platform("tpu"), "auto", "bfloat16"),
        (Platform("tpu"), "float32", "float32"),
    ],
)
def test_an_encoder_that_was_pretrained_computes_in_bfloat16_unless_on_a_cpu(
    config: Config, published: Path, platform: Platform, asked: str, dtype: str
):
    config = replace(config, model=ModelConfig(dtype=asked), init__source=str(published))
    assert initialize.resolve(config, platform=platform).network.model.dtype == dtype


def spec_for(config: Config, kind: str) -> RunSpec:
    """The tiny encoder, pretrained for an objective or fine-tuned for labels."""
    match kind:
        case "mlm":
            return spec_of(replace(config, objective=MlmConfig()))
        case "mlm_nsp":
            return spec_of(replace(config, objective=MlmNspConfig()))
        case "two labels":
            return finetuning(config, ClassificationConfig(labels=("no", "yes")))
        case "three labels":
            return finetuning(config, ClassificationConfig(labels=("no", "perhaps", "yes")))
    raise AssertionError(kind)


LACKING = {
    ("mlm", "mlm"): (),
    ("mlm", "mlm_nsp"): ("nsp", "pooler"),
    ("mlm", "two labels"): ("classifier", "pooler"),
    ("mlm_nsp", "mlm"): (),
    ("mlm_nsp", "mlm_nsp"): (),
    ("mlm_nsp", "two labels"): ("classifier",),
    ("two labels", "mlm"): ("mlm",),
    ("two labels", "mlm_nsp"): ("mlm", "nsp"),
    ("two labels", "two labels"): (),
    ("two labels", "three labels"): ("classifier",),
}
"""By what the source is and what it is to become, the parts of the new head that the source does not have."""


@pytest.mark.long
@pytest.mark.parametrize("form", ["folder", "workdir"])
@pytest.mark.parametrize(("before", "now"), LACKING)
def test_parts_that_the_source_lacks_stay_random_and_are_said(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str, now: str, form: str
):
    """The others are taken, those of the head too."""
    first, source = spec_for(config, before), tmp_path / "source"
    if form == "workdir":
        saved = tensors(first, save_run(config, first, source, validation={first.best.name: 0.5}))
    else:
        saved = safetensors.numpy.load_file(publish(config, first.network, source) / "model.safetensors")
    spec = spec_for(config, now)
    caplog.set_level("INFO")
    state = started(spec, source)
    lacking = LACKING[before, now]
    said = f"; it lacks {', '.join(lacking)}, which stay random" if lacking else ""
    assert f"starting from the weights of {source}{said}" in caplog.messages
    random = fresh(spec).params["objective"]
    for name in lacking:
        jax.tree.map(np.testing.assert_array_equal, state.params["objective"][name], random[name])
    parts = {"mlm": "cls.predictions.", "nsp": "cls.seq_relationship.", "pooler": "bert.pooler."}
    left_out = tuple(parts.get(name, name) for name in lacking)
    taken = {name: array for name, array in tensors(spec, state).items() if not name.startswith(left_out)}
    assert_identical(taken, {name: saved[name] for name in taken})


@pytest.mark.parametrize(("kind", "lacking"), [("mlm", ""), ("mlm_nsp", ""), ("two labels", "classifier")])
def test_weights_may_have_more_than_the_class_that_their_config_names(
    config: Config, published: Path, caplog: pytest.LogCaptureFixture, kind: str, lacking: str
):
    """As the published bert-base-uncased: a BertForMaskedLM that has a pooler and a next-sentence head."""
    edited = json.loads((published / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (published / "config.json").write_text(json.dumps(edited))
    spec = spec_for(config, kind)
    caplog.set_level("INFO")
    state = started(spec, published)
    said = f"; it lacks {lacking}, which stay random" if lacking else ""
    assert f"starting from the weights of {published}{said}" in caplog.messages
    saved = safetensors.numpy.load_file(published / "model.safetensors")
    taken = {name: a for name, a in tensors(spec, state).items() if not name.startswith("classifier.")}
    assert_identical(taken, {name: saved[name] for name in taken})


@pytest.mark.long
@pytest.mark.parametrize("positions", [64, 40, 150])
def test_from_another_run_with_more_or_fewer_positions(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, positions: int
):
    """Fewer: the first ones. More: the first ones again. Which is said, with what the source is."""
    caplog.set_level("INFO")
    first = spec_of(config)
    saved = tensors(first, save_run(config, first, tmp_path / "first"))
    length = min(positions, 64)
    second = spec_of(replace(config, model__max_position_embeddings=positions, data__sequence_length=length))
    state = tensors(second, started(second, tmp_path / "first"))
    change = "" if positions == 64 else f"; max_position_embeddings 64 -> {positions}"
    assert f"they are of bert, 2 layers of 32{change}" in caplog.messages
    name = "bert.embeddings.position_embeddings.weight"
    wanted = saved.pop(name)[np.arange(positions) % 64]
    np.testing.assert_array_equal(state.pop(name), wanted)
    assert_identical(state, saved)


def save_with_tensorflow(model: BertConfig, theirs: torch.nn.Module, folder: Path) -> None:
    """As google-research/bert writes it: run_pretraining.py with its names, and the optimizer's variables."""
    import tensorflow as tf

    folder.mkdir()
    fields = {name: getattr(model, name) for name in bert.HUGGINGFACE.fields}
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
    spec = spec_of(replace(config, model__hidden_act="gelu_new"))
    theirs = transformers_bert(spec.network)
    save_with_tensorflow(spec.network.model, theirs, tmp_path / "published")
    shutil.copytree(Path(config.data.dir) / "tokenizer", tmp_path / "published", dirs_exist_ok=True)
    state = started(spec, tmp_path / "published")
    written = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    assert_identical(tensors(spec, state), {name: written[name] for name in tensors(spec, state)})
    ids = np.arange(5, 45, dtype=np.int32)[None]
    batch = {
        "token_ids": ids,
        "segment_ids": np.ones_like(ids),
        "position_ids": np.arange(40, dtype=np.int32)[None],
        "token_type_ids": np.zeros_like(ids),
        "mlm_positions": np.arange(40, dtype=np.int32)[None],
    }
    ours = np.asarray(jax.jit(token_logits, static_argnums=0)(spec.network, state.params, batch))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids.astype(np.int64))).prediction_logits[0].numpy()
    assert np.abs(ours[:, : config.model.vocab_size] - expected).max() <= 2e-5


def test_a_folder_of_hugging_face_may_have_a_config_of_tensorflow_left_in_it(config: Config, published: Path):
    (published / "bert_config.json").write_text("{}")
    started(spec_of(config), published)


@pytest.mark.long
def test_a_finetuned_run_gives_its_best_weights(config: Config, tmp_path: Path):
    """Not its latest ones: as `export` and `predict` do."""
    tuned = finetuning(config, RegressionConfig())
    best = save_run(config, tuned, tmp_path / "run", step=1, validation={"pearson": 0.9})
    latest = best._replace(step=best.step + 2, params=jax.tree.map(lambda leaf: leaf + 1, best.params))
    with Checkpoints(tmp_path / "run", tuned) as checkpoints:
        checkpoints.save(3, latest, Progress(), validation={"pearson": 0.1})
    state = started(spec_of(config), tmp_path / "run")
    words, expected = (params["encoder"]["embeddings"]["word"] for params in (state.params, best.params))
    np.testing.assert_array_equal(words, expected)


def spoil_tensors(folder: Path, change) -> None:
    saved = safetensors.numpy.load_file(folder / "model.safetensors")
    change(saved)
    safetensors.numpy.save_file(saved, folder / "model.safetensors")


QUERY = "bert.encoder.layer.1.attention.self.query.weight"
REFUSED = {
    "nothing is there": (shutil.rmtree, "has no config.json"),
    "only a pickle": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"^init\.source: .* is a pickle, which could run code: have Transformers save it again",
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
        "a tensor classifier.bias that BertForPreTraining does not have",
    ),
    "another shape": (
        lambda folder: spoil_tensors(folder, lambda saved: saved.update({QUERY: np.zeros((32, 31))})),
        r"shape \(32, 31\), but \(32, 32\) is what config\.json gives",
    ),
    "another tokenizer": (
        lambda folder: [
            file.write_text(file.read_text().replace('"[MASK]"', '"<mask>"'))
            for file in folder.glob("tokenizer*.json")
        ],
        r"as piece 4, not '<mask>' as init.source .*: prepare the data with that one",
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
        lambda folder: (folder / "config.json").write_text('{"model_type": "t5"}'),
        "config.json is of a 't5' model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_started_from_is_refused(config: Config, published: Path, name: str):
    spoil, message = REFUSED[name]
    spoil(published)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        started(spec_of(config), published)


def test_weights_of_another_model_name_the_flag(config: Config, published: Path):
    with pytest.raises(ValueError, match=r"have hidden_size 32, not 64: use --model.hidden-size 32"):
        started(spec_of(replace(config, model__hidden_size=64)), published)
    with pytest.raises(ValueError, match=r"hidden_act gelu, not relu: use --model.hidden-act gelu"):
        started(spec_of(replace(config, model__hidden_act="relu")), published)


@pytest.mark.slow
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

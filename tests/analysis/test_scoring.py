"""Buckets are a partition of what `evaluate` predicts; pseudo-likelihoods are those of a loop in PyTorch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import torch
import transformers
from jax.sharding import Mesh

from bert_jax.analysis.scoring import (
    BUCKETS,
    Bucket,
    Scores,
    bucket_of_piece,
    by_frequency,
    masked_in_turn,
    pseudo_log_likelihood,
    read_unmasked,
    report,
)
from bert_jax.config import Config
from bert_jax.interop import huggingface
from bert_jax.parallel import sharding
from bert_jax.run.evaluate import compile_eval_step, evaluate
from bert_jax.training.network import Params, init_params
from bert_jax.training.run_spec import RunSpec
from data_pipeline.batch import unpack
from data_pipeline.inspection import token_counts
from data_pipeline.loader import Loader
from data_pipeline.manifest import Manifest
from data_pipeline.special_tokens import SpecialTokens
from tests.helpers.configs import replace, spec_of

Rows = dict[str, np.ndarray]
BY_COLUMN = ("token_ids", "segment_ids", "position_ids", "token_type_ids")
BY_SEQUENCE = ("cls_positions", "nsp_labels", "nsp_weights")


@pytest.fixture(scope="module")
def manifest(config: Config) -> Manifest:
    return Manifest.load(Path(config.data.dir))


@pytest.fixture(scope="module")
def spec(config: Config) -> RunSpec:
    return spec_of(config)


@pytest.fixture(scope="module")
def params(spec: RunSpec) -> Params:
    """Not the initial ones: predictions differ, and some hit, because frequent pieces are likely."""
    params = init_params(spec.network, jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    counts = token_counts(Path(spec.config.data.dir), "train")
    mlm = params["objective"]["mlm"]
    mlm["bias"] = mlm["bias"].at[: len(counts)].add(np.log1p(counts))
    return params


@pytest.fixture
def mesh(config: Config) -> Iterator[Mesh]:
    mesh = sharding.make_mesh(config.mesh)
    with jax.set_mesh(mesh):
        yield mesh


def alone(rows: Rows) -> Rows:
    """The packed sequences of rows, each in a row of its own."""
    B, S = rows["token_ids"].shape
    sequences = [(row, slot) for row in range(B) for slot in range(1, rows["segment_ids"][row].max() + 1)]
    single = {name: np.zeros((len(sequences), S), np.int32) for name in BY_COLUMN}
    for i, (row, slot) in enumerate(sequences):
        columns = rows["segment_ids"][row] == slot
        for name in BY_COLUMN:
            single[name][i, : columns.sum()] = rows[name][row, columns]
        single["segment_ids"][i, : columns.sum()] = 1
    unused = {name: np.zeros((len(sequences), 1), rows[name].dtype) for name in BY_SEQUENCE}
    return single | unused


@pytest.fixture(scope="module")
def rows(spec: RunSpec, manifest: Manifest) -> Rows:
    """Five held-out rows, the last three of them packed."""
    rows = read_unmasked(spec, manifest, rows=10**6)
    packed = rows["segment_ids"].max(axis=1) > 1
    chosen = [*np.flatnonzero(~packed)[:2], *np.flatnonzero(packed)[:3]]
    assert len(chosen) == 5
    return {name: array[chosen] for name, array in rows.items()}


def score(spec: RunSpec, params: Params, rows: Rows, manifest: Manifest, mesh: Mesh):
    return pseudo_log_likelihood(spec, params, rows, special_tokens=manifest.special_tokens, mesh=mesh)


def test_pieces_fall_into_quarters_of_the_training_tokens():
    counts = np.array([0, 0, 25, 10, 30, 0, 20, 15, 0])
    assert bucket_of_piece(counts, special_ids=[0, 1]).tolist() == [-1, -1, 1, 3, 0, 4, 2, 3, 4]
    counts[4] = 10**12  # one piece is nearly all there is
    assert bucket_of_piece(counts, special_ids=[0, 1]).tolist() == [-1, -1, 3, 3, 0, 4, 3, 3, 4]


def test_training_counts_are_those_of_the_stored_rows(config: Config):
    stored = tfds.builder_from_directory(config.data.dir).as_data_source("train")
    expected = Counter(int(token) for row in stored for token in row["token_ids"])
    found = token_counts(Path(config.data.dir), "train")
    assert {token: n for token, n in enumerate(found.tolist()) if n} == expected


@pytest.mark.long
@pytest.mark.parametrize("eval_batches", [None, 2])
def test_buckets_are_a_partition_of_what_evaluate_predicts(
    config: Config, params: Params, manifest: Manifest, mesh: Mesh, eval_batches
):
    spec = spec_of(replace(config, train__eval_batches=eval_batches))
    counts = token_counts(Path(config.data.dir), "train")
    counts[manifest.special_tokens.ids] = 0
    counts[np.argsort(-counts)[60:200:2]] = 0  # so that there are predictions of pieces never seen
    buckets_V = bucket_of_piece(counts, special_ids=manifest.special_tokens.ids)

    def loader() -> Loader:
        return Loader(config.data, split="validation", batch_size=config.train.global_batch_size)

    with loader() as batches:
        step = compile_eval_step(spec, mesh)
        whole = evaluate(spec, params, step=step, mesh=mesh, loader=batches)
    with loader() as batches:
        buckets = by_frequency(spec, params, buckets_V, mesh=mesh, loader=batches)
    with loader() as batches:
        read = list(map(unpack, batches))[:eval_batches]
    targets = np.concatenate([batch["mlm_targets"][batch["mlm_weights"] > 0] for batch in read])

    assert [bucket.name for bucket in buckets] == list(BUCKETS)
    assert sum(bucket.pieces for bucket in buckets) == manifest.vocab_size - len(manifest.special_tokens.ids)
    assert [bucket.predictions for bucket in buckets] == np.bincount(buckets_V[targets]).tolist()
    assert all(bucket.predictions for bucket in buckets)
    assert len({round(bucket.loss, 3) for bucket in buckets}) == len(buckets), "the buckets differ"
    weight = sum(bucket.predictions for bucket in buckets)
    assert weight == len(targets)
    hits = sum(bucket.predictions * bucket.accuracy for bucket in buckets)
    assert hits == pytest.approx(whole["mlm_accuracy"] * weight, abs=1e-3)
    assert hits > 0
    nats = sum(bucket.predictions * bucket.loss for bucket in buckets)
    assert nats / weight == pytest.approx(whole["mlm_loss"], rel=1e-6)


def test_rows_are_read_unmasked_and_from_all_over_the_split(spec: RunSpec, manifest: Manifest):
    stored = list(tfds.builder_from_directory(spec.config.data.dir).as_data_source("validation"))
    rows = read_unmasked(spec, manifest, rows=7)
    for i, token_ids in enumerate(rows["token_ids"]):
        record = stored[i * len(stored) // 7]["token_ids"]
        assert token_ids[: len(record)].tolist() == record.tolist()
        assert not token_ids[len(record) :].any()
    assert len(read_unmasked(spec, manifest, rows=10**6)["token_ids"]) == len(stored)


def test_every_token_is_masked_once_and_alone_in_its_sequence(rows: Rows, manifest: Manifest):
    special, mask = manifest.special_tokens, manifest.special_tokens.mask
    before = {name: array.copy() for name, array in rows.items()}
    masked = Counter()
    for batch in masked_in_turn(rows, special_tokens=special, batch_size=16):
        assert {len(array) for array in batch.values()} == {16}
        for i, slot in np.argwhere(batch["mlm_weights"]):
            column = batch["mlm_positions"][i, slot]
            assert batch["token_ids"][i, column] == mask
            assert batch["segment_ids"][i, column] == slot + 1
            original = batch["token_ids"][i].copy()
            used = batch["mlm_weights"][i] > 0
            original[batch["mlm_positions"][i, used]] = batch["mlm_targets"][i, used]
            (row,) = np.flatnonzero((rows["token_ids"] == original).all(axis=1))
            masked[row, column] += 1
        assert ((batch["token_ids"] == mask).sum(axis=1) == batch["mlm_weights"].sum(axis=1))[
            batch["mlm_weights"].any(axis=1)
        ].all()
    ordinary = (rows["segment_ids"] > 0) & ~np.isin(rows["token_ids"], special.ids)
    assert masked == Counter(map(tuple, np.argwhere(ordinary)))
    assert all((rows[name] == before[name]).all() for name in rows), "the rows are left as they were"


def in_pytorch(theirs: torch.nn.Module, sequences: Rows, special: SpecialTokens) -> np.ndarray:
    """Pseudo-log-likelihood of each sequence: one token, one forward pass, no padding, no packing."""
    found = []
    for ids, segments, types in zip(
        *(sequences[name] for name in ("token_ids", "segment_ids", "token_type_ids")), strict=True
    ):
        length = int((segments > 0).sum())
        token_ids = torch.tensor(ids[:length])[None].long()
        total = 0.0
        for column in range(length):
            if int(ids[column]) in special.ids:
                continue
            masked = token_ids.clone()
            masked[0, column] = special.mask
            with torch.no_grad():
                logits = theirs(
                    input_ids=masked, token_type_ids=torch.tensor(types[:length])[None].long()
                ).logits
            total += float(logits[0, column].log_softmax(-1)[ids[column]])
        found.append(total)
    return np.array(found)


def test_pseudo_log_likelihoods_are_those_of_transformers(
    spec: RunSpec, params: Params, rows: Rows, manifest: Manifest, mesh: Mesh
):
    network = spec.network
    fields = {name: getattr(network.model, name) for name in network.encoder.HUGGINGFACE.fields}
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**fields)).eval()
    tensors = huggingface.to_tensors(network, params)
    result = theirs.load_state_dict({name: torch.tensor(a) for name, a in tensors.items()}, strict=False)
    assert all("decoder" in name for name in result.missing_keys)  # tied
    assert all("pooler" in name or "seq_relationship" in name for name in result.unexpected_keys)
    theirs.tie_weights()

    sequences = alone(rows)
    expected = in_pytorch(theirs, sequences, manifest.special_tokens)
    total, tokens = score(spec, params, rows, manifest, mesh)
    assert abs(total - expected.sum()) / tokens <= 1e-4
    for i in range(3):
        one = {name: array[i : i + 1] for name, array in sequences.items()}
        total, tokens = score(spec, params, one, manifest, mesh)
        assert abs(total - expected[i]) / tokens <= 1e-4


def test_packed_sequences_score_as_they_do_alone(
    spec: RunSpec, params: Params, rows: Rows, manifest: Manifest, mesh: Mesh
):
    packed, tokens = score(spec, params, rows, manifest, mesh)
    single, same = score(spec, params, alone(rows), manifest, mesh)
    assert tokens == same
    assert packed == pytest.approx(single, rel=1e-6)


def test_devices_share_the_copies(spec: RunSpec, params: Params, rows: Rows, manifest: Manifest):
    found = []
    for devices in (1, 8):
        mesh = sharding.make_mesh(spec.config.mesh, devices=jax.devices()[:devices])
        with jax.set_mesh(mesh):
            found.append(score(spec, jax.device_get(params), rows, manifest, mesh))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_pseudo_perplexity_of_knowing_nothing_is_the_size_of_the_vocabulary(
    spec: RunSpec, params: Params, rows: Rows, manifest: Manifest, mesh: Mesh
):
    nothing = jax.tree.map(np.zeros_like, jax.device_get(params))
    total, tokens = score(spec, nothing, rows, manifest, mesh)
    assert math.exp(-total / tokens) == pytest.approx(spec.network.model.vocab_size, rel=1e-5)


def test_the_report():
    buckets = [Bucket("0-25 %", 9, 1234, 0.5, 2.25), Bucket("never seen", 12, 0, math.nan, math.nan)]
    assert list(report(Scores(buckets, 0.125, -693.1471805599453, 1000))) == [
        "training tokens  pieces  predictions  mlm_accuracy  mlm_loss",
        "0-25 %                9        1,234        0.5000    2.2500",
        "never seen           12            0",
        "majority_mlm_accuracy  0.1250",
        "",
        "pseudo_perplexity      2.0000",
        "nats_a_token           0.6931",
        "tokens_scored          1,000",
    ]

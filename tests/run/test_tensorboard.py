"""Event files are what TensorFlow reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from bert_jax.run.tensorboard import EventFile


def test_scalars_are_read_back_by_tensorflow(tmp_path: Path):
    file = EventFile(tmp_path / "tensorboard", start=10)
    file.write(11, {"train/loss": 2.5, "train/grad_norm": 0.125})
    file.write(12, {"validation/loss": float("nan")})
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    header, session, first, second = tf.compat.v1.train.summary_iterator(str(path))
    assert header.file_version == "brain.Event:2"
    assert (session.step, session.session_log.status) == (11, tf.compat.v1.SessionLog.START)
    assert first.step == 11
    assert {value.tag: value.simple_value for value in first.summary.value} == {
        "train/loss": 2.5,
        "train/grad_norm": 0.125,
    }
    (value,) = second.summary.value
    assert value.simple_value == pytest.approx(float("nan"), nan_ok=True)

"""Where a workdir is: itself, or the folder in a bucket of which it is the copy."""

from __future__ import annotations

from pathlib import Path

from etils import epath

from bert_jax.workdir import bucket
from bert_jax.workdir.bucket import is_copy, named, root_of


def test_a_folder_on_a_disk_is_itself(tmp_path: Path):
    assert root_of(tmp_path) == epath.Path(tmp_path)
    assert not is_copy(tmp_path)


def test_runs_in_a_copy_are_in_the_bucket_too(tmp_path: Path, monkeypatch):
    """As those of several seeds are: their checkpoints are written there, not to the copy."""
    monkeypatch.setitem(bucket._URLS, tmp_path, "gs://bucket/tuned")
    assert str(root_of(tmp_path)) == "gs://bucket/tuned"
    assert str(root_of(tmp_path / "seed-1")) == "gs://bucket/tuned/seed-1"
    assert is_copy(tmp_path / "seed-1")
    assert named(f"written to {tmp_path}/report") == "written to gs://bucket/tuned/report"

"""Makes the folder that a bare accelerator machine needs for `tests.device.run`: no network, no TensorFlow.

    python -m tests.device.pack OUT [--source files:GLOB] [--rows N]

Batches of real text as files, made by the data pipeline; what a CPU computes of them, to compare with; the
packages that such a machine lacks and a run imports, copied from here; the source.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from data_pipeline.batch import unpack
from data_pipeline.config import DataConfig
from data_pipeline.errors import UserError
from data_pipeline.loader import Loader
from data_pipeline.prepare import prepare
from tests.device import rows
from tests.device.bare import CARRIED
from tests.device.cases import ROWS, SHORT, TWENTY, Rows
from tests.helpers.paths import ROOT

BATCH = 64
"""Rows that are read at a time."""
LARGEST = 40e6
"""Bytes of the folder."""
KERNEL_ROWS = 2


def pack(out: Path, *, source: str, count: int) -> None:
    """Raises UserError if `out` is there, the text cannot be used, or too much came of it."""
    if out.exists():
        raise UserError(f"{out} exists already; remove it, or give another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=out.parent) as name:
        unfinished = Path(name) / "folder"
        unfinished.mkdir()
        pack_data(unfinished, source=source, count=count, scratch=Path(name) / "datasets")
        pack_references(unfinished)
        for package in CARRIED:
            here = Path(importlib.import_module(package).__file__ or "").parent
            copy_python(here, unfinished / "packages" / package)
        for folder in ("bert_jax", "data_pipeline", "configs", "tests"):
            copy_python(ROOT / folder, unfinished / "source" / folder)
        sizes = {path: path.stat().st_size for path in unfinished.rglob("*") if path.is_file()}
        if sum(sizes.values()) > LARGEST:
            raise UserError(
                f"the folder has {sum(sizes.values()) / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f}: "
                f"give fewer than {count} --rows"
            )
        for path in sorted(unfinished.iterdir()):
            size = sum(size for file, size in sizes.items() if file == path or path in file.parents)
            print(f"{size / 1e6:8.2f} MB  {path.name}")
        print(f"{sum(sizes.values()) / 1e6:8.2f} MB  {out}", flush=True)
        unfinished.rename(out)


def pack_data(folder: Path, *, source: str, count: int, scratch: Path) -> None:
    """Rows of every kind, held-out ones for the pretraining, the tokenizer, and facts about the text."""
    scratch.mkdir()
    vocabulary: str | None = None
    for kind in ROWS:
        config = prepared_with(kind, source=source, folder=scratch, vocabulary=vocabulary)
        manifest = prepare(config)
        wanted = count if kind is SHORT else kind.count
        with Loader(config, split="train", batch_size=BATCH) as loader:
            written = rows.save(folder / f"{kind.name}.npz", itertools.islice(loader, -(-wanted // BATCH)))
        print(f"{kind.name}: {written:,} rows, the text has {manifest.rows['train']:,}", flush=True)
        if kind is SHORT:
            with Loader(config, split="validation", batch_size=BATCH) as loader:
                rows.save(folder / f"{kind.name}-validation.npz", itertools.islice(loader, 1024 // BATCH))
            tokenizer = Path(config.dir) / "tokenizer"
            vocabulary = str(tokenizer / "vocab.txt")
            shutil.copytree(tokenizer, folder / "tokenizer")
            facts = {
                "fingerprint": manifest.fingerprint,
                "baselines": manifest.baselines,
                "source": source,
                "rows": manifest.rows["train"],
                "tokens": manifest.tokens["train"],
            }
            (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


def prepared_with(kind: Rows, *, source: str, folder: Path, vocabulary: str | None) -> DataConfig:
    """What the rows are prepared with: all have the vocabulary of the first."""
    config = kind.data(source=source, folder=folder)
    return dataclasses.replace(
        config,
        validation_fraction=0.02,
        tokenizer=dataclasses.replace(config.tokenizer, vocab_file=vocabulary),
    )


def pack_references(folder: Path) -> None:
    """What the kernels and twenty steps give here, on a CPU in float32."""
    from tests.device import kernels, steps

    segment_ids = {}
    for kind in ROWS:
        batch = rows.take(rows.load(folder / f"{kind.name}.npz", kind.data()), 0, KERNEL_ROWS)
        segment_ids[kind.name] = unpack(batch)["segment_ids"]
    np.savez_compressed(folder / "kernels.npz", **kernels.make_references(segment_ids))
    losses = {}
    for case in TWENTY:
        data = rows.load(folder / f"{case.rows.name}.npz", case.rows.data())
        losses[case.rows.name], _ = steps.losses(case, data, dtype="float32")
    (folder / "losses.json").write_text(json.dumps(losses) + "\n")


def copy_python(source: Path, target: Path) -> None:
    """The Python files of a folder, and nothing else."""
    for file in sorted(source.rglob("*.py")):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", default="builtin:python-docs", help="of the text, as data.source has it")
    parser.add_argument("--rows", type=int, default=SHORT.count, help="for the pretraining")
    arguments = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"  # what is compared with shall be a CPU's
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        pack(arguments.out, source=arguments.source, count=arguments.rows)
    except (UserError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

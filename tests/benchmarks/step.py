"""A training step, ours and PyTorch's side by side: same model, same kind of rows, same machine, one run.

    python -m tests.benchmarks.step [--cases L4 ...] [--repeats N] [--threads 2]

prints seconds a step and real tokens (no padding) a second, next to the goals. It needs the extra `test`.

The peer is Transformers' BertForPreTraining with PyTorch's AdamW (fused), clipping and dropout. As shipped
it computes the words' logits at every position; "masked only" gives it a head that computes them where a
token was masked, as ours does: the same work. On a CPU everything is float32; on a GPU bfloat16, the peer
under autocast and torch.compile.

Both sides train on rows of real documents (the shared corpus where there is one, else Python's
documentation). At S=128 a row holds one sentence pair for both. At S=512 ours are packed and the peer's
padded to the longest of the batch, as Hugging Face's collator does.

For ModernBERT the peer is ModernBertForMaskedLM, "masked only" with its own sparse_prediction. At S=512 both
have the same full rows, at S=1,024 ours are packed documents and the peer's padded ones.

Each side lives in a process of its own with its model and batches in memory. A round gives each one step in
turn, while the others sleep; the table has the median of the rounds and the extremes.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.metadata
import itertools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax.config import (
    BertConfig,
    Config,
    DataConfig,
    EncoderConfig,
    MaskingConfig,
    ModernBertConfig,
    TokenizerConfig,
    TrainConfig,
)
from data_pipeline.batch import unpack

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT.parent / "shared/data/corpus"
BATCHES = 4
"""Different ones, in turn."""
WARM_UP = 6
"""Steps before the clock starts: the first ones fetch their memory."""
SIDES = ("ours", "as shipped", "masked only")
VOCAB_SIZE = 30522

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    layers: int
    hidden: int
    rows: int
    length: int
    goals: dict[str, float]
    """Peer -> how many times its real tokens a second we want."""
    modern: bool = False

    def model(self, *, dtype: str) -> EncoderConfig:
        """Of ours; all of its layers unrolled."""
        kind = ModernBertConfig if self.modern else BertConfig
        return kind(
            vocab_size=VOCAB_SIZE,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // 64,
            intermediate_size=(3 * self.hidden // 2) if self.modern else 4 * self.hidden,
            scan_unroll=self.layers,
            dtype=dtype,  # type: ignore[arg-type]
        )

    def config(self, side: str, *, folder: Path, dtype: str = "float32") -> Config:
        """Of ours, and of the rows of a peer."""
        packed = self.length == (1024 if self.modern else 512) and side == "ours"
        rows: dict[str, Any] = {}
        if self.modern:
            rows["input_format"] = "full_sentences" if self.length == 512 else "documents"
        source = f"files:{CORPUS}/*.txt.gz" if CORPUS.is_dir() else "builtin:python-docs"
        return Config(
            model=self.model(dtype=dtype),
            data=DataConfig(
                source=source,
                dir=str(
                    folder / f"{'modern-' if self.modern else ''}{self.length}{'-packed' if packed else ''}"
                ),
                sequence_length=self.length,
                max_sequences_per_row=8 if packed else 1,
                tokenizer=TokenizerConfig(vocab_size=8192),
                masking=MaskingConfig(max_predictions=round(0.15 * self.length)),
                **rows,
            ),
            train=TrainConfig(global_batch_size=self.rows),
        )


CASES = [
    Case("L4 H256, B32 S128", 4, 256, 32, 128, {"as shipped": 3.5, "masked only": 1.2}),
    Case("BERT-base, B8 S128", 12, 768, 8, 128, {"as shipped": 1.7, "masked only": 1.2}),
    Case("L4 H256, B8 S512", 4, 256, 8, 512, {"masked only": 2.0}),
    Case("BERT-base, B2 S512", 12, 768, 2, 512, {"masked only": 2.0}),
    Case("ModernBERT L7 H256, B8 S512", 7, 256, 8, 512, {"masked only": 1.2}, modern=True),
    Case("ModernBERT L7 H256, B4 S1024", 7, 256, 4, 1024, {"masked only": 1.5}, modern=True),
]
ON_GPU = [
    Case("BERT-base, B256 S128", 12, 768, 256, 128, {"masked only": 1.15}),
    Case("BERT-base, B64 S512", 12, 768, 64, 512, {"masked only": 1.15}),
    Case("BERT-large, B128 S128", 24, 1024, 128, 128, {"masked only": 1.15}),
    Case("BERT-large, B32 S512", 24, 1024, 32, 512, {"masked only": 1.15}),
    Case("ModernBERT-base, B32 S1024", 22, 768, 32, 1024, {"masked only": 1.15}, modern=True),
]


# What runs in the processes: each returns a function that does one step, to its very end.


def prepare(case: Case, side: str, folder: Path) -> None:
    """Writes the dataset, where it is not there yet, and BATCHES batches of it for this case and side."""
    from data_pipeline.loader import Loader
    from data_pipeline.prepare import prepare

    config = case.config(side, folder=folder)
    if not Path(config.data.dir).exists():
        prepare(config.data)
    with Loader(config.data, split="train", batch_size=case.rows) as loader:
        for index, batch in enumerate(itertools.islice(loader, BATCHES)):
            np.savez(folder / f"{case.name}-{side}-{index}.npz", **batch)


def ours(case: Case, batches: list[Arrays], *, dtype: str, threads: int) -> Callable[[int], None]:
    import jax

    from bert_jax.interop.initialize import resolve
    from bert_jax.parallel import runtime, sharding
    from bert_jax.training.step import jit_init_state, jit_train_step

    runtime.configure(cache=Path("runs/compiled"))  # as `bert-jax pretrain` does
    spec = resolve(case.config("ours", folder=Path(), dtype=dtype))
    mesh = sharding.make_mesh(spec.config.mesh)
    jax.set_mesh(mesh)
    on_device = [sharding.global_batch(batch, mesh, batch_size=case.rows) for batch in batches]
    state = jit_init_state(spec, mesh)()
    compiled = jit_train_step(spec, mesh, spec.stages[-1])

    def step(index: int) -> None:
        nonlocal state
        state, metrics = compiled(state, on_device[index % BATCHES])
        assert np.isfinite(float(metrics["loss"]))
        jax.block_until_ready(state)

    return step


def theirs(
    case: Case, batches: list[Arrays], *, dtype: str, threads: int, masked_only: bool
) -> Callable[[int], None]:
    import torch
    import transformers

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind: Any = transformers.ModernBertForMaskedLM if case.modern else transformers.BertForPreTraining
    ours = case.model(dtype="float32")
    sizes = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    fields = {name: getattr(ours, name) for name in sizes} | {"pad_token_id": 0}
    if case.modern:
        fields["sparse_prediction"] = masked_only
    model = kind(kind.config_class(**fields)).to(device).train()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)
    cross_entropy = torch.nn.functional.cross_entropy

    def tensors(batch: Arrays) -> dict[str, torch.Tensor]:
        batch = unpack(batch)
        longest = int((batch["segment_ids"] > 0).sum(axis=1).max())
        if device == "cuda":
            longest = case.length  # one shape: torch.compile would compile each
        rows, slots = np.nonzero(batch["mlm_weights"])
        columns, targets = batch["mlm_positions"][rows, slots], batch["mlm_targets"][rows, slots]
        labels = np.full_like(batch["token_ids"], -100)
        labels[rows, columns] = targets
        arrays = {
            "input_ids": batch["token_ids"][:, :longest],
            "attention_mask": batch["segment_ids"][:, :longest],
            "token_type_ids": batch["token_type_ids"][:, :longest],
            "labels": labels[:, :longest],
            "next_sentence_label": batch["nsp_labels"][:, 0],
        }
        if case.modern:
            del arrays["token_type_ids"], arrays["next_sentence_label"]
        elif masked_only:
            del arrays["labels"]
            arrays |= {"positions": batch["mlm_positions"], "targets": batch["mlm_targets"]}
            arrays |= {"weights": batch["mlm_weights"]}
        return {
            name: torch.tensor(array, dtype=torch.float32 if name == "weights" else torch.long).to(device)
            for name, array in arrays.items()
        }

    def loss_as_shipped(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(**inputs).loss

    def loss_masked_only(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        names = ("input_ids", "attention_mask", "token_type_ids")
        hidden, pooled = model.bert(**{name: inputs[name] for name in names})[:2]
        index = inputs["positions"][..., None].expand(-1, -1, hidden.shape[-1])
        scores = model.cls.predictions(hidden.gather(1, index))
        nll = cross_entropy(scores.flatten(0, 1).float(), inputs["targets"].flatten(), reduction="none")
        weights = inputs["weights"].flatten()
        nsp = cross_entropy(model.cls.seq_relationship(pooled).float(), inputs["next_sentence_label"])
        return (nll * weights).sum() / weights.sum() + nsp

    loss_of = loss_masked_only if masked_only and not case.modern else loss_as_shipped
    if device == "cuda":
        loss_of = torch.compile(loss_of)
    on_device = [tensors(batch) for batch in batches]

    def step(index: int) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = loss_of(on_device[index % BATCHES])
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        assert np.isfinite(loss.item())
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def serve(connection: Connection, case: Case, side: str, folder: Path, dtype: str, threads: int) -> None:
    """Does a step whenever it is told to, and answers how long it took."""
    paths = [folder / f"{case.name}-{side}-{index}.npz" for index in range(BATCHES)]
    batches = [dict(np.load(path)) for path in paths]
    make = ours if side == "ours" else functools.partial(theirs, masked_only=side == "masked only")
    step = make(case, batches, dtype=dtype, threads=threads)
    for index in range(WARM_UP):
        step(index)
    connection.send(None)
    while (index := connection.recv()) is not None:
        start = time.perf_counter()
        step(index)
        connection.send(time.perf_counter() - start)


# The parent, which only waits.


def measure(case: Case, *, folder: Path, repeats: int, threads: int, dtype: str) -> None:
    context = multiprocessing.get_context("spawn")
    tokens = {}
    for side in SIDES:
        process = context.Process(target=prepare, args=(case, side, folder))
        process.start()
        process.join()
        assert process.exitcode == 0
        paths = [folder / f"{case.name}-{side}-{index}.npz" for index in range(BATCHES)]
        tokens[side] = statistics.mean(int(np.load(path)["segment_lengths"].sum()) for path in paths)
    connections = {}
    for side in SIDES:  # one after the other, so that none measures while another compiles
        connections[side], other = context.Pipe()
        context.Process(target=serve, args=(other, case, side, folder, dtype, threads), daemon=True).start()
        connections[side].recv()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for index in range(repeats):
        for side, connection in connections.items():
            time.sleep(0.3)  # threads of the last one may still spin
            connection.send(index)
            seconds[side].append(connection.recv())
    for connection in connections.values():
        connection.send(None)
    rates = {side: tokens[side] / statistics.median(values) for side, values in seconds.items()}
    for side, values in seconds.items():
        line = f"{case.name:22s} {side:12s} {statistics.median(values):7.3f} s"
        line += f" ({min(values):.3f} to {max(values):.3f})  {rates[side]:9,.0f} tokens/s"
        if side != "ours":
            goal = case.goals.get(side)
            line += f"  ours is {rates['ours'] / rates[side]:.2f} x" + (f", goal {goal} x" if goal else "")
        print(line, flush=True)


def print_machine(threads: int) -> None:
    cpuinfo = Path("/proc/cpuinfo")
    models = [s for s in cpuinfo.read_text().splitlines() if s.startswith("model name")]
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "transformers", "numpy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    print(models[0].partition(": ")[2] if models else platform.machine(), f"- {threads} threads")
    print(", ".join([f"Python {platform.python_version()}", *versions]), flush=True)


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="*", default=[], help="those whose names begin so; else all")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of measuring")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--gpu", action="store_true", help="the cases for a GPU, in bfloat16")
    arguments = parser.parse_args()
    if not arguments.gpu:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    print_machine(arguments.threads)
    cases = ON_GPU if arguments.gpu else CASES
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        for case in cases:
            if not arguments.cases or case.name.startswith(tuple(arguments.cases)):
                measure(
                    case,
                    folder=Path(name),
                    repeats=arguments.repeats,
                    threads=arguments.threads,
                    dtype="bfloat16" if arguments.gpu else "float32",
                )


if __name__ == "__main__":
    main()

"""Texts to vectors: on all devices of this process, several texts in a row, so that little is padding.

Shapes in names: N texts, B rows of a batch, S row length, P texts of a row at most, D numbers of a vector.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
from tqdm import tqdm

from bert_jax.config import EmbeddingConfig, MeshConfig
from bert_jax.interop.load import Embedder
from bert_jax.models.encoder import Batch, max_segments
from bert_jax.objectives.objective import RowShape
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.pooling import normalized, pool
from bert_jax.parallel import sharding
from bert_jax.parallel.platform import local_platform
from bert_jax.run.prefetch import prefetched
from bert_jax.tasks.pieces import Pieces
from bert_jax.training.network import Network, Params, encode
from bert_jax.training.run_spec import kernels_for
from data_pipeline.batch import unpack
from data_pipeline.errors import UserError

Item = TypeVar("Item")

Dtype = Literal["auto", "float32", "bfloat16"]

CHUNK = 16_384
"""Texts that are sorted by length together, and in memory as tokens."""
SHORTEST_ROW = 128
"""Columns. Each further width is twice as wide; a row has the one that its longest text needs."""
TOKENS = {"cpu": 4096}
MANY_TOKENS = 65_536
"""Columns of a batch on one device, by platform; and where none is named."""
FEW_BATCHES = 16
"""So many do not pay for the compilation of a second width."""
SHORTEST_TEXT = 8
"""Tokens. A row takes no more texts than if all had so many."""


class Vectors(NamedTuple):
    """Those of texts that follow each other."""

    array_NxD: np.ndarray
    """float32, in the order of the texts."""
    cut: list[int]
    """Which of all texts were too long and lost their end."""


class Rows(NamedTuple):
    """A batch, and where it has which texts of its chunk: one entry a text in each list."""

    arrays: dict[str, np.ndarray]
    """token_ids and segment_lengths, as in data_pipeline/batch.py."""
    texts: list[int]
    rows: list[int]
    slots: list[int]


class Chunk(NamedTuple):
    """Stands behind the last batch of a chunk."""

    size: int
    cut: list[int]


class Vectorizer:
    """What makes vectors of texts.

    Args:
      dimensions: numbers that are kept of a vector; None: as the model says. Where vectors have length 1,
        those that are cut have it too.
      dtype: of the computation. auto: float32 on a CPU, bfloat16 elsewhere.

    Raises:
      UserError: a vector does not have so many.
    """

    def __init__(self, embedder: Embedder, *, dimensions: int | None = None, dtype: Dtype = "auto"):
        network, params, tokenizer, self.use = embedder
        platform = local_platform()
        if dtype == "auto":
            dtype = "float32" if platform.name == "cpu" else "bfloat16"
        model = dataclasses.replace(network.model, dtype=dtype, scan_unroll=1)
        self.dimensions = dimensions or self.use.dimensions or model.hidden_size
        if self.dimensions > model.hidden_size:
            raise UserError(f"a vector of the model has {model.hidden_size} numbers, not {self.dimensions}")
        self._network, self._platform = network._replace(model=model), platform
        self._mesh = sharding.make_mesh(MeshConfig(), devices=jax.local_devices())
        self._params = jax.device_put({"encoder": params["encoder"]}, sharding.replicated(self._mesh))
        self._pieces = Pieces(tokenizer)

    def __call__(self, texts: Sequence[str], *, prompt: str | None = None, name: str) -> Iterator[Vectors]:
        """The vectors of texts, some thousands at a time, under a progress bar of that name.

        Args:
          prompt: in front of each text; None: as the model says.
        """
        prompt = self.use.prompt if prompt is None else prompt

        def batches() -> Iterator[Rows | Chunk]:
            for first in range(0, len(texts), CHUNK):
                chunk = [prompt + text for text in texts[first : first + CHUNK]]
                yield from self._chunk(chunk, first=first)

        def place(rows: Rows | Chunk) -> tuple[Rows | Chunk, Any]:
            arrays = rows.arrays if isinstance(rows, Rows) else {}
            return rows, jax.device_put(arrays, sharding.batch_sharding(self._mesh))

        array_NxD = np.empty((min(CHUNK, len(texts)), self.dimensions), np.float32)
        with (
            prefetched(batches(), place) as placed,
            tqdm(total=len(texts), unit="text", desc=name, dynamic_ncols=True, disable=None) as bar,
        ):
            running = ((rows, self._run(arrays) if arrays else None) for rows, arrays in placed)
            for rows, found in _one_behind(running):
                if isinstance(rows, Chunk):
                    yield Vectors(array_NxD[: rows.size].copy(), rows.cut)
                else:
                    array_NxD[rows.texts] = np.asarray(found)[rows.rows, rows.slots]
                    bar.update(len(rows.texts))

    def _run(self, arrays: dict[str, jax.Array]) -> jax.Array:
        shape = RowShape(arrays["token_ids"].shape[1], max_sequences=arrays["segment_lengths"].shape[1])
        # The one of the training may be for another device.
        kernels = kernels_for(self._network, shape, self._platform, asked="auto")
        with jax.set_mesh(self._mesh):
            return _vectors(
                self._params,
                arrays,
                network=self._network,
                settings=self.use.settings,
                dimensions=self.dimensions,
                kernels=kernels,
            )

    def _chunk(self, texts: Sequence[str], *, first: int) -> Iterator[Rows | Chunk]:
        frame, cut, ids = self._pieces.alone, [], []
        longest = self.use.settings.sequence_length
        for number, found in enumerate(self._pieces.of_texts(texts), first):
            if len(found) > longest - frame.size:
                cut.append(number)
            ids.append(frame.row(found[: longest - frame.size], None)[0])
        lengths, devices = [len(text) for text in ids], self._mesh.size
        columns = devices * TOKENS.get(self._platform.name, MANY_TOKENS)
        widths = widths_for(max(lengths), most=longest)
        if sum(lengths) <= FEW_BATCHES * columns:
            widths = widths[-1:]
        for width, rows in pack(lengths, widths).items():
            size = _batch_size(len(rows), most=max(1, columns // width // devices) * devices, devices=devices)
            for start in range(0, len(rows), size):
                yield _batch(ids, rows[start : start + size], size=size, width=width, pad=self._pieces.pad)
        yield Chunk(len(texts), cut)


@functools.partial(jax.jit, static_argnames=("network", "settings", "dimensions", "kernels"))
def _vectors(
    params: Params,
    batch: Batch,
    *,
    network: Network,
    settings: EmbeddingConfig,
    dimensions: int,
    kernels: Kernels,
) -> jax.Array:
    """[B, P, D] float32."""
    batch = unpack(batch)
    hidden_BxSxD = encode(network, params, batch, kernels=kernels)
    vectors_BxPxD = pool(
        hidden_BxSxD, batch["segment_ids"], sequences=max_segments(batch), how=settings.pooling
    )[:, :, :dimensions]
    return normalized(vectors_BxPxD) if settings.normalize else vectors_BxPxD


def _one_behind(running: Iterator[Item]) -> Iterator[Item]:
    """Each item when the next one is there: a batch is read while the one behind it is computed."""
    before = list(itertools.islice(running, 1))
    for item in running:
        yield before.pop()
        before.append(item)
    yield from before


def widths_for(longest: int, *, most: int) -> list[int]:
    """The widths of rows for texts up to `longest` tokens, ascending.

    The same for all inputs, so that compiled programs serve again.

    Args:
      most: tokens of any text.
    """
    widest = -(-most // SHORTEST_ROW) * SHORTEST_ROW
    widths = [SHORTEST_ROW]
    while widths[-1] < longest:
        widths.append(min(2 * widths[-1], widest))
    return widths


def pack(lengths: Sequence[int], widths: Sequence[int]) -> dict[int, list[list[int]]]:
    """Rows by their width, each a list of the texts in it; every text is in one.

    A row is as wide as the longest text that is left needs, and takes the longest ones that fit beside it
    (first-fit decreasing).
    """
    left = sorted(range(len(lengths)), key=lengths.__getitem__)
    sizes = [lengths[text] for text in left]
    rows: dict[int, list[list[int]]] = {}
    while left:
        width = free = widths[bisect.bisect_left(widths, sizes[-1])]
        row: list[int] = []
        while len(row) < width // SHORTEST_TEXT and (fitting := bisect.bisect_right(sizes, free)):
            free -= sizes.pop(fitting - 1)
            row.append(left.pop(fitting - 1))
        rows.setdefault(width, []).append(row)
    return rows


def _batch_size(rows: int, *, most: int, devices: int) -> int:
    """Rows of a batch: a power of two for each device where fewer than `most` do."""
    each = -(-rows // devices)
    return min(most, devices * (1 << (each - 1).bit_length()))


def _batch(ids: Sequence[list[int]], rows: Sequence[list[int]], *, size: int, width: int, pad: int) -> Rows:
    token_ids = np.full((size, width), pad, np.int32)
    lengths = np.zeros((size, width // SHORTEST_TEXT, 2), np.int32)
    places = [(text, row, slot) for row, texts in enumerate(rows) for slot, text in enumerate(texts)]
    for row, texts in enumerate(rows):
        joined = list(itertools.chain.from_iterable(ids[text] for text in texts))
        token_ids[row, : len(joined)] = joined
        lengths[row, : len(texts), 0] = [len(ids[text]) for text in texts]
    return Rows({"token_ids": token_ids, "segment_lengths": lengths}, *map(list, zip(*places, strict=True)))

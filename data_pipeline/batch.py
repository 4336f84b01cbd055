"""The batch contract: names, shapes and types of what the loader yields and what the train step makes of it.

B rows, S row length, K predictions a row, P packed sequences a row. All arrays are static in shape. K is
`data.masking.max_predictions` in training; validation is always masked alike and has its own K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from data_pipeline.config import DataConfig
from data_pipeline.instances import NO_LABEL

Batch = dict[str, np.ndarray]


def batch_spec(
    config: DataConfig, *, rows: int, split: str = "train"
) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Shape and dtype of every array in a batch of `rows` rows, as it travels to the devices.

    token_ids        [B, S]     masked input; padding, whatever id that has, after the end
    segment_lengths  [B, P, 2]  tokens of sentence A and of sentence B of each packed sequence; 0 if unused
    pair_labels      [B, P]     1 where sentence B is random, 0 where it is the next one; NO_LABEL
    mlm_positions    [B, K]     columns to predict; 0, where [CLS] is, in unused slots
    mlm_targets      [B, K]     the original tokens there
    """
    by_prediction = (rows, config.masking_of(split).max_predictions)
    packed = config.max_sequences_per_row
    return {
        "token_ids": ((rows, config.sequence_length), np.int32),
        "segment_lengths": ((rows, packed, 2), np.int32),
        "pair_labels": ((rows, packed), np.int32),
        "mlm_positions": (by_prediction, np.int32),
        "mlm_targets": (by_prediction, np.int32),
    }


def unpack(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What models and objectives read: `segment_lengths` and `pair_labels` give way to what follows of them.

    segment_ids      [B, S]  0 is padding, 1..P the packed sequence; attention stays inside one
    position_ids     [B, S]  restart at every packed sequence
    token_type_ids   [B, S]  0 for sentence A, 1 for sentence B
    mlm_weights      [B, K]  1.0 for a prediction, 0.0 for an unused slot
    cls_positions    [B, P]  column of each packed sequence's [CLS]
    nsp_labels       [B, P]  as `pair_labels`, 0 for no label
    nsp_weights      [B, P]  1.0 for a labelled sequence, 0.0 for an unused slot or no label

    Of NumPy's arrays or of JAX's. What the batch has beside stays as it is, and so does one that is unpacked.
    """
    if "segment_lengths" not in batch:
        return dict(batch)
    found = {name: array for name, array in batch.items() if name not in ("segment_lengths", "pair_labels")}
    lengths = batch["segment_lengths"]
    xp = lengths.__array_namespace__()
    sizes = lengths[:, :, 0] + lengths[:, :, 1]
    ends = xp.cumsum(sizes, axis=1, dtype=np.int32)
    starts = ends - sizes
    used = sizes > 0

    column_1xS = xp.arange(batch["token_ids"].shape[1], dtype=np.int32)[None]
    inside = column_1xS < ends[:, -1:]
    column, start, end = column_1xS[:, :, None], starts[:, None], ends[:, None]  # of [B, S, P]
    ended_before = xp.sum(end <= column, axis=2, dtype=np.int32)
    own_start = xp.max(xp.where(start <= column, start, 0), axis=2)
    is_second = xp.any((start + lengths[:, None, :, 0] <= column) & (column < end), axis=2)
    found |= {
        "segment_ids": xp.where(inside, ended_before + 1, 0),
        "position_ids": xp.where(inside, column_1xS - own_start, 0),
        "token_type_ids": (inside & is_second).astype(np.int32),
        "cls_positions": xp.where(used, starts, 0),
    }
    if "mlm_positions" in batch:
        found["mlm_weights"] = (batch["mlm_positions"] > 0).astype(np.float32)
    if "pair_labels" in batch:
        labelled = used & (batch["pair_labels"] != NO_LABEL)
        found["nsp_labels"] = xp.where(labelled, batch["pair_labels"], 0)
        found["nsp_weights"] = labelled.astype(np.float32)
    return found

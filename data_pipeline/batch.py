"""The batch contract: names, shapes and types of what the loader yields and the train step takes.

B rows, S row length, K predictions a row, P packed sequences a row. All arrays are static in shape. K is
`data.masking.max_predictions` in training; validation is always masked alike and has its own K.
"""

from __future__ import annotations

import numpy as np

from data_pipeline.config import DataConfig

Batch = dict[str, np.ndarray]


def batch_spec(
    config: DataConfig, *, rows: int, split: str = "train"
) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
    """Shape and dtype of every array in a batch of `rows` rows.

    token_ids        [B, S]  masked input; 0 ([PAD]) after the end
    segment_ids      [B, S]  0 is padding, 1..P the packed sequence; attention stays inside one
    position_ids     [B, S]  restart at every packed sequence
    token_type_ids   [B, S]  0 for sentence A, 1 for sentence B
    mlm_positions    [B, K]  columns to predict
    mlm_targets      [B, K]  the original tokens there
    mlm_weights      [B, K]  1.0 for a prediction, 0.0 for an unused slot
    cls_positions    [B, P]  column of each packed sequence's [CLS]
    nsp_labels       [B, P]  1 where sentence B is random, 0 where it is the next one
    nsp_weights      [B, P]  1.0 for a labelled sequence, 0.0 for an unused slot or no label
    """
    by_column = (rows, config.sequence_length)
    by_prediction = (rows, config.masking_of(split).max_predictions)
    by_sequence = (rows, config.max_sequences_per_row)
    return {
        "token_ids": (by_column, np.int32),
        "segment_ids": (by_column, np.int32),
        "position_ids": (by_column, np.int32),
        "token_type_ids": (by_column, np.int32),
        "mlm_positions": (by_prediction, np.int32),
        "mlm_targets": (by_prediction, np.int32),
        "mlm_weights": (by_prediction, np.float32),
        "cls_positions": (by_sequence, np.int32),
        "nsp_labels": (by_sequence, np.int32),
        "nsp_weights": (by_sequence, np.float32),
    }

"""Words for [MASK]: the quickest look at what a model has learned."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import ModelConfig
from bert_jax.interop.load import Trained, open_trained
from bert_jax.models import bert as model
from bert_jax.models.bert import Params
from data_pipeline.corpus import mended
from data_pipeline.errors import UserError


class Guess(NamedTuple):
    word: str
    """Or a part of one, as the vocabulary writes it where it is no text by itself."""
    probability: float


def fill_mask(directory: Path, text: str, *, top: int = 5) -> list[list[Guess]]:
    """The `top` likeliest pieces for each [MASK] in `text`.

    Args:
      directory: an exported directory or a workdir.

    Raises:
      FileNotFoundError, UserError: there is no model, no [MASK], or too much text.
    """
    return fill(open_trained(directory), mended(text), top=top)


def fill(trained: Trained, text: str, *, top: int) -> list[list[Guess]]:
    """`fill_mask` of a model that is open."""
    config, params, tokenizer, *_ = trained
    if config.head != "pretraining":
        raise UserError(f"the model is fine-tuned for {config.head}: use bert-jax predict")
    encoding = tokenizer.encode(text)
    positions = [i for i, id in enumerate(encoding.ids) if id == tokenizer.token_to_id("[MASK]")]
    if not positions:
        raise UserError(f"the text has no [MASK]: {text!r}")
    if len(encoding.ids) > config.max_position_embeddings:
        raise UserError(
            f"the text has {len(encoding.ids)} tokens, the model takes {config.max_position_embeddings}"
        )
    row = np.asarray(encoding.ids, np.int32)[None]
    batch = {
        "token_ids": row,
        "segment_ids": np.ones_like(row),
        "position_ids": np.arange(row.size, dtype=np.int32)[None],
        "token_type_ids": np.asarray(encoding.type_ids, np.int32)[None],
        "mlm_positions": np.asarray(positions, np.int32)[None],
        "cls_positions": np.zeros((1, 1), np.int32),
    }
    probabilities = np.asarray(_probabilities(config, params, jax.tree.map(jnp.asarray, batch)))[
        :, : tokenizer.get_vocab_size()
    ]
    best = np.argsort(-probabilities, axis=-1)[:, :top]

    def word(id: int) -> str:
        return tokenizer.decode([id], skip_special_tokens=False).strip() or str(tokenizer.id_to_token(id))

    return [
        [Guess(word(int(i)), float(row[i])) for i in order]
        for row, order in zip(probabilities, best, strict=True)
    ]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(config: ModelConfig, params: Params, batch: model.Batch) -> jax.Array:
    """[K, V] of the one row in the batch."""
    return jax.nn.softmax(model.apply(config, params, batch).mlm_BxKxV[0], axis=-1)

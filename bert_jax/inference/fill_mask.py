"""Words for [MASK]: the quickest look at what a model has learned."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from bert_jax.config import TaskConfig
from bert_jax.interop.load import LoadedModel, load_model
from bert_jax.models.encoder import Batch
from bert_jax.objectives import mlm
from bert_jax.ops.attention import PLAIN
from bert_jax.ops.precision import precision
from bert_jax.training.network import Network, Params, modules
from data_pipeline.corpus import sanitize
from data_pipeline.errors import UserError
from data_pipeline.tokenizer import Tokenizer


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
    return fill(load_model(directory), sanitize(text), top=top)


def fill(loaded: LoadedModel, text: str, *, top: int) -> list[list[Guess]]:
    """`fill_mask` with a model that is loaded."""
    network, params, tokenizer = loaded
    if not network.objective.PREDICTS_TOKENS:
        hint = ": use bert-jax predict" if isinstance(network.settings, TaskConfig) else ""
        raise UserError(f"the model is for {network.settings.kind}, which predicts no words{hint}")
    encoding = tokenizer.huggingface.encode(text)
    columns = masked_columns(encoding, tokenizer)
    if not columns:
        raise UserError(f"the text has no {tokenizer.mask_token}: {text!r}")
    batch = masked_batch(encoding, columns, longest=network.model.longest)
    probabilities = np.asarray(_probabilities(network, params, jax.tree.map(jnp.asarray, batch)))[
        :, : tokenizer.vocab_size
    ]
    best = np.argsort(-probabilities, axis=-1)[:, :top]

    def word(id: int) -> str:
        text = tokenizer.huggingface.decode([id], skip_special_tokens=False).strip()
        return tokenizer.pieces[id] if not text or "\ufffd" in text else text

    return [
        [Guess(word(int(i)), float(row[i])) for i in order]
        for row, order in zip(probabilities, best, strict=True)
    ]


def masked_columns(encoding: tokenizers.Encoding, tokenizer: Tokenizer) -> list[int]:
    """Where the text has its mask token."""
    return [i for i, id in enumerate(encoding.ids) if id == tokenizer.special_tokens.mask]


def masked_batch(encoding: tokenizers.Encoding, columns: list[int], *, longest: int) -> dict[str, np.ndarray]:
    """A batch of one row, to predict the tokens at these columns; raises UserError if it is too long."""
    S = len(encoding.ids)
    if longest < S:
        raise UserError(f"the text has {S} tokens, the model takes {longest}")
    return {
        "token_ids": np.array([encoding.ids], np.int32),
        "segment_ids": np.ones((1, S), np.int32),
        "position_ids": np.arange(S, dtype=np.int32)[None],
        "token_type_ids": np.array([encoding.type_ids], np.int32),
        "mlm_positions": np.array([columns], np.int32),
    }


def token_logits(network: Network, params: Params, batch: Batch) -> jax.Array:
    """[K, V] float32 of the one row in the batch."""
    with precision(network.model.dtype):
        both = modules(network, params)
        hidden_BxSxD = both.encoder.encode(batch, kernels=PLAIN)
        inputs = mlm.decoder_inputs(both.objective, both.encoder, hidden_BxSxD, batch["mlm_positions"])
        return inputs.logits_BxKxV[0]


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(network: Network, params: Params, batch: Batch) -> jax.Array:
    return jax.nn.softmax(token_logits(network, params, batch), axis=-1)

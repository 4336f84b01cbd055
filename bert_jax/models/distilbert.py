"""DistilBERT (Sanh et al. 2019, arXiv 1910.01108): BERT's modules without token types, under other names.

Reference implementation: transformers/models/distilbert/modeling_distilbert.py.
"""

from __future__ import annotations

import functools

import jax
from flax import nnx

from bert_jax.config import DistilBertConfig
from bert_jax.models import bert
from bert_jax.models.encoder import HuggingFace
from bert_jax.models.relatives import FirstTokenHead, Relative


def sequence_classification_head(
    config: DistilBertConfig, *, num_labels: int, rngs: nnx.Rngs
) -> FirstTokenHead:
    """DistilBertForSequenceClassification."""
    return FirstTokenHead(
        config,
        num_labels=num_labels,
        names=("pre_classifier", "classifier"),
        activation=jax.nn.relu,
        rate_before=0.0,
        rate=config.seq_classif_dropout,
        rngs=rngs,
    )


def question_answering_head(config: DistilBertConfig, *, rngs: nnx.Rngs) -> bert.TokenHead:
    """DistilBertForQuestionAnswering."""
    return bert.TokenHead(config, num_labels=2, name="qa_outputs", rate=config.qa_dropout, rngs=rngs)


DISTILBERT = Relative(
    Config=DistilBertConfig,
    names=bert.Names(
        base="distilbert",
        layer="transformer.layer",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        intermediate="ffn.lin1",
        output="ffn.lin2",
        output_norm="output_layer_norm",
    ),
    HUGGINGFACE=HuggingFace(
        model_type="distilbert",
        class_prefix="DistilBert",
        base_prefix="distilbert.",
        fields=(
            *(name for name in bert.HUGGINGFACE.fields if name not in ("type_vocab_size", "layer_norm_eps")),
            "seq_classif_dropout",
            "qa_dropout",
        ),
        # A table of sines in a file is a table like any other, and trained.
        constants={"sinusoidal_pos_embds": False, "tie_word_embeddings": True},
        token_ids={"pad_token_id": "pad"},
        required={},
        values=bert.HUGGINGFACE.values,
        legacy_suffixes=bert.HUGGINGFACE.legacy_suffixes,
        tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
        unused=("distilbert.embeddings.position_ids",),
        renamed={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
    ),
    masked_lm_head=functools.partial(
        bert.MaskedLMHead, dense="vocab_transform", norm="vocab_layer_norm", bias="vocab_projector.bias"
    ),
    sequence_classification_head=sequence_classification_head,
    token_classification_head=bert.token_classification_head,
    question_answering_head=question_answering_head,
)

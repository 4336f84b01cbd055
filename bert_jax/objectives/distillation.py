"""Distillation: masked tokens, and to be like a teacher, another model with the same vocabulary.

Up to three things are learned from it, each a loss with a weight of its own: what it predicts at the masked
positions (Hinton et al. 2015; for BERT Sanh et al. 2019), its hidden states by a learned projection (Jiao et
al. 2019), and how its queries, keys and values relate to each other (MiniLMv2: Wang et al. 2021).

The teacher is a part of the head that is not trained: its parameters are constants of the step
(training/network.py), float32 and laid on the mesh as those of the student are. It has no dropout.

Shapes in names: B rows, S row length, K predictions a row, D hidden of the student, T of the teacher, V
padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config import DistillationConfig, EncoderConfig
from bert_jax.models import encoder_of
from bert_jax.models.encoder import Batch, Encoder, EncoderModule
from bert_jax.models.layers import Dense
from bert_jax.objectives import mlm
from bert_jax.objectives.objective import Metric, RowShape, Sums
from bert_jax.ops.attention import PLAIN
from bert_jax.ops.attention.kernel import Kernels
from bert_jax.ops.cross_entropy import decoded_divergence
from bert_jax.ops.relations import relation_divergence
from data_pipeline.config import DataConfig


class Teacher(NamedTuple):
    """A model to learn from: which one, and how it is run."""

    model: EncoderConfig
    digest: str
    """Of the files that its weights come from: a run that is resumed has the teacher that it began with."""
    kernels: Kernels = PLAIN
    """Its attention kernels."""


class TeacherModules(nnx.Module):
    """The teacher with its parameters; no masked-LM head where its predictions are not asked for."""

    def __init__(self, settings: DistillationConfig, model: EncoderConfig, *, rngs: nnx.Rngs):
        encoder = encoder_of(model)
        self.encoder = encoder.init(model, rngs=rngs)
        self.mlm = encoder.masked_lm_head(model, rngs=rngs) if settings.soft_weight else None


class DistillationHead(nnx.Module):
    """A masked-LM head, a projection to the teacher's hidden states if they are learned, and the teacher."""

    def __init__(
        self,
        settings: DistillationConfig,
        teacher: Teacher | None,
        encoder: Encoder,
        model: EncoderConfig,
        *,
        rngs: nnx.Rngs,
    ):
        self.mlm = encoder.masked_lm_head(model, rngs=rngs)
        self.projection = (
            Dense(
                (model.hidden_size, teacher.model.hidden_size),
                ("embed", None),
                stddev=model.initializer_range,
                huggingface="distillation.projection",
                depth=model.num_hidden_layers + 1,
                rngs=rngs,
            )
            if teacher is not None and settings.hidden_weight
            else None
        )
        self.teacher = None if teacher is None else TeacherModules(settings, teacher.model, rngs=rngs)


@dataclass(frozen=True)
class Distillation:
    """The objective, with the teacher of a run. The one in OBJECTIVES has none yet, and trains nothing."""

    teacher: Teacher | None = None

    Config: ClassVar[type[DistillationConfig]] = DistillationConfig
    INPUT_FORMATS: ClassVar[tuple[str, ...]] = ()
    REDUCTION: ClassVar[Literal["rows", "batch"]] = "rows"
    PREDICTS_TOKENS: ClassVar[bool] = True
    HUGGINGFACE_SUFFIX: ClassVar[str] = mlm.HUGGINGFACE_SUFFIX

    def metrics(self, settings: DistillationConfig) -> tuple[Metric, ...]:
        learned = {
            "soft_loss": "Divergence from the teacher's predictions",
            "hidden_loss": "Distance from the teacher's hidden states",
            "relations_loss": "Divergence from the teacher's relations",
        }
        return (
            Metric("loss", "Loss", higher_is_better=False),
            Metric("mlm_loss", "Loss of masked tokens", higher_is_better=False, baseline="unigram_loss"),
            *(
                Metric(name, title, higher_is_better=False)
                for name, title in learned.items()
                if settings.coefficient(name)
            ),
            Metric("mlm_accuracy", "Accuracy on masked tokens"),
        )

    def refuses(self, settings: DistillationConfig, encoder: Encoder, data: DataConfig | None) -> str | None:
        return None

    def refuses_student(
        self, settings: DistillationConfig, model: EncoderConfig, data: DataConfig
    ) -> str | None:
        """Why such a model cannot learn from the teacher on such rows, as a sentence; None if it can."""
        assert self.teacher is not None
        theirs, name = self.teacher.model, f"objective.teacher {settings.teacher}"
        if theirs.vocab_size != model.vocab_size:
            return (
                f"{name} has a vocabulary of {theirs.vocab_size} pieces, but model.vocab_size is "
                f"{model.vocab_size}: a student has the vocabulary of its teacher"
            )
        if data.sequence_length > theirs.longest:
            return f"{name} has {theirs.longest} positions; data.sequence_length is {data.sequence_length}"
        if (reason := encoder_of(theirs).refuses(theirs, data)) is not None:
            return f"{name} cannot read the rows: its {reason.removeprefix('model.')}"
        layer, layers = settings.teacher_layer, theirs.num_hidden_layers
        if layer is not None and not 0 <= layer < layers:
            return f"objective.teacher_layer is {layer}, but {name} has the layers 0 to {layers - 1}"
        heads = self.relation_heads(settings)
        if settings.relations_weight and (theirs.hidden_size % heads or model.hidden_size % heads):
            return (
                f"objective.relation_heads {heads} does not divide both the hidden_size {theirs.hidden_size} "
                f"of the teacher and model.hidden_size {model.hidden_size}"
            )
        return None

    def relation_heads(self, settings: DistillationConfig) -> int:
        assert self.teacher is not None
        return settings.relation_heads or self.teacher.model.num_attention_heads

    def init(
        self, settings: DistillationConfig, encoder: Encoder, model: EncoderConfig, *, rngs: nnx.Rngs
    ) -> DistillationHead:
        return DistillationHead(settings, self.teacher, encoder, model, rngs=rngs)

    def sums(
        self,
        settings: DistillationConfig,
        head: Any,
        encoder: EncoderModule,
        batch: Batch,
        *,
        kernels: Kernels,
        dropout_keys: jax.Array | None = None,
    ) -> Sums:
        """mlm_loss and mlm_accuracy, and of soft_loss, hidden_loss and relations_loss those that count; nats,
        but for hidden_loss."""
        assert self.teacher is not None
        positions, weights = batch["mlm_positions"], self.weights(batch)
        last = encoder.config.num_hidden_layers - 1
        layer = settings.teacher_layer
        hidden_BxSxD, ours = _encode(settings, encoder, batch, last, kernels, dropout_keys)
        hidden_BxSxT, theirs = _encode(
            settings,
            head.teacher.encoder,
            batch,
            self.teacher.model.num_hidden_layers - 1 if layer is None else layer,
            self.teacher.kernels,
            None,
        )
        inputs = mlm.decoder_inputs(head, encoder, hidden_BxSxD, positions)
        found = mlm.token_sums(inputs, batch)
        if settings.soft_weight:
            taught = mlm.decoder_inputs(head.teacher, head.teacher.encoder, hidden_BxSxT, positions)
            logits_BxKxV = taught.logits_BxKxV
            soft = decoded_divergence(
                float(settings.temperature),
                inputs.hidden_BxKxD.reshape(-1, inputs.hidden_BxKxD.shape[-1]),
                inputs.decoder_VxD,
                inputs.bias_V,
                logits_BxKxV.reshape(-1, logits_BxKxV.shape[-1]),
                batch["mlm_weights"].ravel(),
            )
            found["soft_loss"] = soft, weights["soft_loss"]
        if settings.hidden_weight:
            difference_BxSxT = (head.projection(ours.hidden_BxSxD) - theirs.hidden_BxSxD).astype(jnp.float32)
            distance_BxS = jnp.square(difference_BxSxT).mean(axis=-1)
            distance = jnp.where(batch["segment_ids"] > 0, distance_BxS, 0).sum()
            found["hidden_loss"] = distance, weights["hidden_loss"]
        if settings.relations_weight:
            relations = jnp.float32(0)
            for vectors_BxSxD, vectors_BxSxT in zip(ours[1:], theirs[1:], strict=True):
                relations += relation_divergence(
                    self.relation_heads(settings), vectors_BxSxD, vectors_BxSxT, batch["segment_ids"]
                )
            found["relations_loss"] = relations, weights["relations_loss"]
        return found

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        masked, tokens = batch["mlm_weights"].sum(), (batch["segment_ids"] > 0).sum().astype(jnp.float32)
        return {"mlm_loss": masked, "soft_loss": masked, "hidden_loss": tokens, "relations_loss": tokens}

    def flops(self, settings: DistillationConfig, model: EncoderConfig, rows: RowShape) -> float:
        """Without the teacher, which has no backward pass."""
        S, total = rows.sequence_length, mlm.flops(settings, model, rows)
        if settings.hidden_weight and self.teacher is not None:
            total += S * 2 * model.hidden_size * self.teacher.model.hidden_size
        return total + (3 * S * S * 2 * model.hidden_size if settings.relations_weight else 0)

    def teacher_flops(self, settings: Any, rows: RowShape) -> float:
        """FLOPs of the teacher's matrix products for a row; there is only a forward pass."""
        if self.teacher is None:
            return 0.0
        model, S = self.teacher.model, rows.sequence_length
        total = encoder_of(model).flops(model, sequence_length=S)
        total += mlm.flops(settings, model, rows) if settings.soft_weight else 0
        return total + (3 * S * S * 2 * model.hidden_size if settings.relations_weight else 0)

    def kept_bytes(
        self, settings: DistillationConfig, model: EncoderConfig, rows: RowShape, *, tensor: int = 1
    ) -> float:
        """The logits once for each gradient; what is learned of a layer; relations of one kind."""
        kept = mlm.kept_bytes(settings, model, rows, tensor=tensor)
        if self.teacher is None:
            return kept
        S, theirs, size = rows.sequence_length, self.teacher.model, 2 if model.dtype == "bfloat16" else 4
        if settings.soft_weight:
            kept *= 2
        if settings.hidden_weight:
            kept += 2 * S * theirs.hidden_size * size
        if settings.relations_weight:
            kept += 3 * S * (model.hidden_size + theirs.hidden_size) * size / tensor
            kept += 2 * self.relation_heads(settings) * S * S * 4 / tensor
        return kept


def _encode(
    settings: DistillationConfig,
    encoder: EncoderModule,
    batch: Batch,
    layer: int,
    kernels: Kernels,
    dropout_keys: jax.Array | None,
) -> tuple[jax.Array, Any]:
    """The last hidden states; and the `LayerStates` of a layer, None unless something is learned of them."""
    if settings.hidden_weight or settings.relations_weight:
        return encoder.encode_with_states(batch, layer=layer, kernels=kernels, dropout_keys=dropout_keys)
    return encoder.encode(batch, kernels=kernels, dropout_keys=dropout_keys), None

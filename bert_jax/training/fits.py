"""Whether the batch and the model of a run divide over a mesh."""

from __future__ import annotations

from jax.sharding import Mesh

from bert_jax.config import EncoderConfig
from bert_jax.training.run_spec import RunSpec
from data_pipeline.errors import UserError


def check_fits(spec: RunSpec, mesh: Mesh) -> None:
    """Raises UserError, naming the field, if the batch or the model does not divide over the mesh."""
    train = spec.config.train
    if spec.network.objective.REDUCTION == "batch" and train.global_batch_size < 2:
        raise UserError(
            f"train.global_batch_size is {train.global_batch_size}; it must be at least 2, because the loss "
            f"of {spec.network.settings.kind} compares the rows of a batch"
        )
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    for stage in spec.stages:
        if stage.rows % (ways * stage.microbatches):
            whole = stage.rows == train.global_batch_size
            raise UserError(
                f"train.{'global_batch_size' if whole else 'batch_ramp'} {stage.rows} is not divisible by "
                f"{ways * stage.microbatches} (mesh data x fsdp = {ways}, times {stage.microbatches} "
                f"microbatch(es); train.microbatches is {train.microbatches})"
            )
    if train.reduce_dtype != "float32":
        if mesh.shape["tensor"] > 1:
            raise UserError(f"train.reduce_dtype {train.reduce_dtype} needs mesh.tensor 1")
        if mesh.devices.flat[0].platform == "cpu":  # XLA crashes
            raise UserError(f"train.reduce_dtype {train.reduce_dtype} does not work on CPUs")
    _check_model("model.", spec.network.model, mesh)
    if spec.network.generator is not None:
        _check_model("the generator's (objective.generator_size) ", spec.network.generator.model, mesh)
    if spec.network.teacher is not None:
        _check_model("objective.teacher: its ", spec.network.teacher.model, mesh)


def _check_model(name: str, model: EncoderConfig, mesh: Mesh) -> None:
    for field, size, axis in (
        ("hidden_size", model.hidden_size, "fsdp"),
        ("embedding_size", model.embedding_size, "fsdp"),
        ("num_attention_heads", model.num_attention_heads, "tensor"),
        ("intermediate_size", model.intermediate_size, "tensor"),
        ("vocab_size (to a multiple of 128)", model.padded_vocab_size, "tensor"),
    ):
        if size % mesh.shape[axis]:
            raise UserError(f"{name}{field} {size} is not divisible by mesh.{axis} {mesh.shape[axis]}")

"""The other side of the comparison: Transformers' BertForPreTraining, SDPA, torch.compile, fused AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from data_pipeline.batch import unpack
from tests.device.cases import Case
from tests.device.rows import Arrays


def inputs_of(batch: Arrays, case: Case) -> dict[str, np.ndarray]:
    """What a batch holds, as the two losses below want it: the only place that knows how it is laid out."""
    batch = unpack(batch)
    segments = batch["segment_ids"]
    inputs = {
        "token_ids": batch["token_ids"],
        "token_types": batch["token_type_ids"],
        "positions": batch["position_ids"],
        "masked_columns": batch["mlm_positions"],
        "masked_tokens": batch["mlm_targets"],
        "masked_weights": batch["mlm_weights"],
        "first_columns": batch["cls_positions"],
        "pair_labels": batch["nsp_labels"],
        "pair_weights": batch["nsp_weights"],
    }
    if case.rows.sequences == 1:
        mask = segments > 0
    else:  # [B, 1, S, S]; a padding query sees padding, as softmax over nothing is not a number
        mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    labels = np.full_like(batch["token_ids"], -100)
    rows, slots = np.nonzero(batch["mlm_weights"])
    labels[rows, batch["mlm_positions"][rows, slots]] = batch["mlm_targets"][rows, slots]
    return inputs | {"mask": mask, "labels": labels}


def make_step(case: Case, batches: list[Arrays]) -> Callable[[int], Any]:
    """A function that starts one step with a batch and returns its loss, on the device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    ours = case.config().model
    config = transformers.BertConfig(
        vocab_size=ours.vocab_size,
        hidden_size=ours.hidden_size,
        num_hidden_layers=ours.num_hidden_layers,
        num_attention_heads=ours.num_attention_heads,
        intermediate_size=ours.intermediate_size,
        max_position_embeddings=ours.max_position_embeddings,
        attention_probs_dropout_prob=ours.attention_probs_dropout_prob,
        attn_implementation="sdpa",
    )
    model: Any = transformers.BertForPreTraining(config).to(device).train()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)
    cross_entropy = torch.nn.functional.cross_entropy

    def mean(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        nll = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        return (nll * weights.flatten()).sum() / weights.sum()

    def masked_only(x: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = model.bert(
            input_ids=x["token_ids"],
            attention_mask=x["mask"],
            token_type_ids=x["token_types"],
            position_ids=x["positions"],
        )[0]

        def at(columns: torch.Tensor) -> torch.Tensor:
            return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))

        words = model.cls.predictions(at(x["masked_columns"]))
        pooler = model.bert.pooler
        pairs = model.cls.seq_relationship(pooler.activation(pooler.dense(at(x["first_columns"]))))
        return mean(words, x["masked_tokens"], x["masked_weights"]) + mean(
            pairs, x["pair_labels"], x["pair_weights"]
        )

    def as_shipped(x: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(
            input_ids=x["token_ids"],
            attention_mask=x["mask"],
            token_type_ids=x["token_types"],
            labels=x["labels"],
            next_sentence_label=x["pair_labels"][:, 0],
        ).loss

    # There may be no compiler for a CPU's code; a rehearsal is for what comes before.
    backend = "inductor" if device == "cuda" else "aot_eager"
    loss_of = torch.compile(as_shipped if case.whole_head else masked_only, backend=backend, dynamic=False)

    def on_device(array: np.ndarray) -> torch.Tensor:
        if array.dtype in (np.float32, np.bool_):
            return torch.tensor(array).to(device)
        return torch.tensor(array, dtype=torch.long).to(device)

    inputs = [{name: on_device(array) for name, array in inputs_of(batch, case).items()} for batch in batches]

    def step(index: int) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            loss = loss_of(inputs[index % len(inputs)])
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        return loss.detach()

    return step


def peak_bytes() -> int | None:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None

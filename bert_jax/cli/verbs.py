"""The verbs of `bert-jax`: a dataclass for each, whose fields are its flags.

Each imports what it needs when it runs, so that none waits for the libraries of another.
"""

from __future__ import annotations

from dataclasses import dataclass

from bert_jax.cli.data_verbs import InspectData, MakePairs, Prepare
from bert_jax.cli.flags import FromFile
from bert_jax.cli.model_verbs import Embed, EvaluateRetrieval, Explain, Export, FillMask, Predict
from bert_jax.cli.run_verbs import Compare, Evaluate, ListCheckpoints, Report
from bert_jax.cli.training_verbs import Benchmark, Finetune, Glue, Plan, Pretrain
from bert_jax.config.as_json import to_json
from bert_jax.parallel.exit_status import OK


@dataclass(frozen=True)
class ShowConfig:
    """Print the config with all its fields as JSON."""

    config: FromFile

    def __call__(self) -> int:
        print(to_json(self.config), end="")
        return OK


VERBS: dict[str, type] = {
    "prepare": Prepare,
    "inspect-data": InspectData,
    "make-pairs": MakePairs,
    "pretrain": Pretrain,
    "benchmark": Benchmark,
    "plan": Plan,
    "evaluate": Evaluate,
    "compare": Compare,
    "finetune": Finetune,
    "glue": Glue,
    "checkpoints": ListCheckpoints,
    "report": Report,
    "export": Export,
    "fill-mask": FillMask,
    "predict": Predict,
    "embed": Embed,
    "evaluate-retrieval": EvaluateRetrieval,
    "explain": Explain,
    "show-config": ShowConfig,
}

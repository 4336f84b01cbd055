r"""ModernBERT-large (Warner et al. 2024, arXiv 2412.13663), its phases, on your own text.

    bert-jax prepare  configs/modernbert_large.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/modernbert_large.py --workdir runs/modernbert-large

As configs/modernbert_base.py, with the sizes and rates of large, whose pretraining came in two parts: 900
billion tokens at 5e-4, where the loss stood still, then 800 billion at 5e-5, at which the later phases go
on. The datasets are those of base. The authors began with the weights of base in the centre of the larger
matrices:

    bert-jax pretrain configs/modernbert_large.py --workdir runs/modernbert-large-tiled \
        --init.source runs/modernbert/pretraining --init.tile

Not run by us: there is no loss to quote; what it needs, a compiler says:

    bert-jax plan configs/modernbert_large.py:pretraining --topology h100:2x8
"""

from pathlib import Path

from bert_jax.config import Config, delta, load_phases

SIZES = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "intermediate_size": 2624,
    "scan_unroll": 28,
}


def get_phases() -> dict[str, Config]:
    base = load_phases(Path(__file__).with_name("modernbert_base.py"))
    large = {name: delta(config, model=SIZES) for name, config in base.items()}
    first = delta(large["pretraining"], optimizer={"learning_rate": 5e-4}, train={"budget": "900e9 tokens"})
    second = delta(
        first,
        optimizer={"learning_rate": 5e-5, "warmup_steps": 0},
        train={"seed": 3, "budget": "800e9 tokens", "batch_ramp": (), "batch_ramp_steps": 0},
        init={"optimizer_state": True},
    )
    third = delta(large["context_extension"], optimizer={"learning_rate": 5e-5})
    last = delta(large["decay"], optimizer={"learning_rate": 5e-5, "end_learning_rate": 5e-8})
    return {"pretraining": first, "lower_rate": second, "context_extension": third, "decay": last}

r"""The encoder Ettin-1B (Weller et al. 2025, arXiv 2507.11412): ModernBERT with 28 layers of 1792.

    bert-jax prepare  configs/ettin_1b.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/ettin_1b.py --workdir runs/ettin-1b

The sizes are Ettin's; phases, rates and datasets are those of configs/modernbert_base.py, not its own. Not
run by us: there is no loss to quote; what it needs, a compiler says:

    bert-jax plan configs/ettin_1b.py:pretraining --topology h100:1x8
"""

from pathlib import Path

from bert_jax.config import Config, delta, load_phases

SIZES = {
    "hidden_size": 1792,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "intermediate_size": 3840,
    "scan_unroll": 28,
}


def get_phases() -> dict[str, Config]:
    base = load_phases(Path(__file__).with_name("modernbert_base.py"))
    return {name: delta(config, model=SIZES) for name, config in base.items()}

r"""The encoder Ettin-150M (Weller et al. 2025, arXiv 2507.11412): ModernBERT with 22 layers of 768.

    bert-jax prepare  configs/ettin_150m.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/ettin_150m.py --workdir runs/ettin-150m

The sizes are Ettin's; phases, rates and datasets are those of configs/modernbert_base.py, not its own. Not
run by us: there is no loss to quote; what it needs, a compiler says:

    bert-jax plan configs/ettin_150m.py:pretraining --topology h100:1x8
"""

from pathlib import Path

from bert_jax.config import Config, delta, load_phases

SIZES = {
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "scan_unroll": 22,
}


def get_phases() -> dict[str, Config]:
    base = load_phases(Path(__file__).with_name("modernbert_base.py"))
    return {name: delta(config, model=SIZES) for name, config in base.items()}

"""A BERT of 4 layers, distilled from BERT-base uncased on your own text (Sanh et al., 2019).

With the files of google-bert/bert-base-uncased (config.json, model.safetensors, vocab.txt, tokenizer.json) in
runs/bert-base-uncased:

    bert-jax prepare  configs/distilled_4_layers.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/distilled_4_layers.py --workdir runs/distilled
    bert-jax export   --workdir runs/distilled --out runs/distilled-exported

It begins with the teacher's embeddings, head and four of its layers. Temperature and weights (5 : 2 : 1) are
DistilBERT's, with the distance of projected hidden states (Jiao et al., 2019) in place of their cosine; there
are no sentence pairs, as there. It has 52 million parameters where the teacher has 110. It is meant for
one GPU or a TPU, and was not run by us: there is no time and no loss to quote.
"""

from pathlib import Path

from bert_jax.config import Config, DistillationConfig, delta, load_recipe

TEACHER = "runs/bert-base-uncased"


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("continue_bert_base.py")),
        model={"num_hidden_layers": 4, "scan_unroll": 4},
        data={"dir": "runs/distilled-data", "input_format": "full_sentences"},
        objective=DistillationConfig(
            teacher=TEACHER, temperature=2.0, mlm_weight=2.0, soft_weight=5.0, hidden_weight=1.0
        ),
        optimizer={"warmup_steps": 0.05},
        train={"steps": 50_000},
        init={"source": TEACHER, "layers": (0, 4, 7, 11)},
    )

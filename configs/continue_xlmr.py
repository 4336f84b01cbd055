r"""XLM-RoBERTa-base, trained on with your own text, in one or more of its hundred languages.

With the files of FacebookAI/xlm-roberta-base (config.json, model.safetensors, tokenizer.json,
tokenizer_config.json, sentencepiece.bpe.model) in runs/xlm-roberta-base:

    bert-jax prepare  configs/continue_xlmr.py --data.source 'files:corpus/*.txt.gz'
    bert-jax pretrain configs/continue_xlmr.py --workdir runs/my-xlmr

As continue_roberta, with the weights and the tokenizer of Conneau et al. (2019). Not run to its end by us:
there is no time and no loss to quote.
"""

from pathlib import Path

from bert_jax.config import Config, TokenizerConfig, XlmRobertaConfig, delta, load_recipe


def get_config() -> Config:
    return delta(
        load_recipe(Path(__file__).with_name("continue_roberta.py")),
        model=XlmRobertaConfig(dtype="bfloat16", scan_unroll=12, attention_probs_dropout_prob=0.0),
        data={
            "dir": "runs/my-xlmr-data",
            "tokenizer": TokenizerConfig(vocab_file="runs/xlm-roberta-base/tokenizer.json"),
        },
        init={"source": "runs/xlm-roberta-base"},
    )

"""A model with anyone's tokenizer.json: prepared, trained, exported, and opened by Transformers."""

from __future__ import annotations

import json
from dataclasses import replace as change
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bert_jax.config import Config, MlmConfig, TokenizerConfig
from bert_jax.inference.fill_mask import fill_mask
from bert_jax.interop import huggingface
from bert_jax.interop.export import export
from bert_jax.models import bert
from bert_jax.run.pretrain import pretrain
from data_pipeline import tokenizer
from data_pipeline.prepare import prepare
from data_pipeline.special_tokens import SpecialTokens
from tests.helpers.configs import replace
from tests.helpers.tokenizers import PUBLISHED, lines, published

TRAINED = ("byte_bpe",)


def words_for(kind: str) -> TokenizerConfig:
    if kind in PUBLISHED:
        return TokenizerConfig(vocab_file=str(published(kind) / "tokenizer.json"))
    return TokenizerConfig(kind=kind, vocab_size=700)


@pytest.mark.long
@pytest.mark.parametrize("kind", [*PUBLISHED, *TRAINED])
def test_from_text_to_transformers(config: Config, kind: str, tmp_path: Path):
    """The same ids, the same files, the same guess for a mask."""
    data = change(
        config.data,
        tokenizer=words_for(kind),
        dir=str(tmp_path / "data"),
        input_format="full_sentences",
    )
    vocab_size = prepare(data).vocab_size
    config = replace(
        config,
        data=data,
        objective=MlmConfig(),
        model__vocab_size=vocab_size,
        train__steps=3,
        train__eval_every=3,
        train__eval_batches=1,
        optimizer__warmup_steps=1,
    )
    assert pretrain(config, workdir=tmp_path / "run")
    export(tmp_path / "run", out=tmp_path / "out")

    ours = tokenizer.load(Path(data.dir) / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    cls, sep = ours.special_tokens.cls, ours.special_tokens.sep
    expected = [[cls, *ids, sep] for ids in ours.encode_batch(lines()[:500])]
    assert theirs(lines()[:500])["input_ids"] == expected
    assert (theirs.pad_token_id, theirs.mask_token_id) == (ours.special_tokens.pad, ours.special_tokens.mask)
    fields = json.loads((tmp_path / "out/config.json").read_text())
    assert fields["pad_token_id"] == ours.special_tokens.pad
    if kind in PUBLISHED:
        for file in published(kind).iterdir():
            if file.name != "config.json":
                assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name

    text = f"the value of the {ours.mask_token}. It is"
    (guesses,) = fill_mask(tmp_path / "out", text, top=3)
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    encoded = theirs(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded).logits[encoded["input_ids"] == ours.special_tokens.mask][0]
    probabilities = logits.softmax(-1).numpy()
    np.testing.assert_allclose(
        [guess.probability for guess in guesses], np.sort(probabilities)[::-1][:3], rtol=1e-3
    )


def test_a_text_without_a_mask_names_that_of_the_tokenizer(config: Config, folder_of, tmp_path: Path):
    with pytest.raises(ValueError, match=r"the text has no \[MASK\]: 'a <mask>'"):
        fill_mask(folder_of("mlm"), "a <mask>")


def test_a_family_says_which_of_its_fields_has_which_role():
    special = SpecialTokens(pad=7, cls=1, sep=2)
    assert huggingface.token_id_fields(bert.HUGGINGFACE, special) == {"pad_token_id": 7}
    names = change(bert.HUGGINGFACE, token_ids={"bos_token_id": "cls", "eos_token_id": "sep"})
    assert huggingface.token_id_fields(names, special) == {"bos_token_id": 1, "eos_token_id": 2}

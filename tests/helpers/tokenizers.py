"""Tokenizers as others publish them, small: folders with a tokenizer.json of each kind."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_pipeline import tokenizer
from data_pipeline.config import TokenizerConfig
from tests.helpers.data import real_documents

ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


@functools.cache
def lines() -> list[str]:
    return [line for document in real_documents(300) for line in document]


def write(folder: Path, library: tokenizers.Tokenizer, **files: dict[str, Any]) -> Path:
    """A folder with a tokenizer.json, and others beside it; their names without .json."""
    folder.mkdir(parents=True)
    library.save(str(folder / "tokenizer.json"))
    for name, fields in files.items():
        (folder / f"{name}.json").write_text(json.dumps(fields, indent=1))
    return folder


@functools.cache
def published(kind: str) -> Path:
    """The folder of a tokenizer of this kind, of PUBLISHED."""
    return PUBLISHED[kind](Path(tempfile.mkdtemp(prefix=f"{kind}-")) / kind)


def byte_bpe(special: list[Any], **options: Any) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, **options)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(lines(), trainer)
    return library


def roberta(folder: Path) -> Path:
    """Its mask takes the space before it; roles and the class for Transformers stand beside it."""
    library = byte_bpe([*ROBERTA_TOKENS])
    library.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    library.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    roles = {
        **{"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"},
        **{"pad_token": "<pad>", "unk_token": "<unk>"},
        "mask_token": {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False},
    }
    write(
        folder,
        library,
        special_tokens_map=roles,
        tokenizer_config={"tokenizer_class": "RobertaTokenizer", "model_max_length": 512},
        vocab=library.get_vocab(with_added_tokens=False),
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    return folder


def modernbert(folder: Path) -> Path:
    """GPT-NeoX's pieces, then runs of spaces, then BERT's roles at 50281 to 50284, and no token types."""
    library = byte_bpe(["<|endoftext|>", "<|padding|>"])
    library.normalizer = normalizers.NFC()
    description = json.loads(library.to_str())
    vocabulary = description["model"]["vocab"]
    vocabulary |= {f"filler{i}": i for i in range(len(vocabulary), 50254)}
    library = tokenizers.Tokenizer.from_str(json.dumps(description))
    library.add_tokens([AddedToken(" " * size, normalized=True) for size in range(24, 1, -1)])
    library.add_tokens(["|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||", "|||IP_ADDRESS|||"])
    library.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    library.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    library.add_tokens([f"[unused{i}]" for i in range(83)])
    library.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", 50281), ("[SEP]", 50282)],
    )
    return write(
        folder,
        library,
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": 8192,
            **{f"{role}_token": f"[{role.upper()}]" for role in ("cls", "sep", "pad", "unk", "mask")},
        },
    )


def wordpiece(folder: Path) -> Path:
    """A BERT whose [MASK] is piece 0 and [PAD] piece 1, that keeps accents and leaves Chinese together."""
    library = tokenizers.Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=False, strip_accents=False, lowercase=True
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[MASK]", "[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    text = [*lines(), *["東京都 café Ångström"] * 50]
    trainer = trainers.WordPieceTrainer(vocab_size=1200, special_tokens=special, show_progress=False)
    library.train_from_iterator(text, trainer)
    library.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    return write(folder, library)


def xlm_roberta(folder: Path) -> Path:
    """A Unigram model after SentencePiece's normalizer, with special tokens among its pieces."""
    words = tokenizer.train(TokenizerConfig(vocab_size=1500, lowercase=False), lines)
    description = json.loads(words.files["tokenizer.json"])
    ordinary = description["model"]["vocab"][5:]
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((name, 0.0) for name in names), *map(tuple, ordinary), ("<mask>", 0.0)]
    library = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3))
    precompiled = {"type": "Precompiled"} | description["normalizer"]["normalizers"][0]
    library = tokenizers.Tokenizer.from_str(
        json.dumps(json.loads(library.to_str()) | {"normalizer": precompiled})
    )
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    library.decoder = decoders.Metaspace(prepend_scheme="always")
    library.add_special_tokens(names)
    library.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    library.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return write(
        folder,
        library,
        tokenizer_config={
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"},
        },
    )


PUBLISHED = {
    "roberta": roberta,
    "modernbert": modernbert,
    "wordpiece": wordpiece,
    "xlm_roberta": xlm_roberta,
}

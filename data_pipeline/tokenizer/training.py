"""Trains a tokenizer on a corpus, or takes the one that the config names."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from data_pipeline.config import TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.special_tokens import USUAL
from data_pipeline.tokenizer import conversion
from data_pipeline.tokenizer.extension import extended
from data_pipeline.tokenizer.tokenizer import JSON, SETTINGS, Tokenizer, files_of, settings

SPECIAL_PIECES = PAD, UNK, CLS, SEP, MASK = tuple(names[0] for names in USUAL.values())
"""BERT's, which every tokenizer that is trained here has first."""
TRAINING_CHARACTERS = 32_000_000
"""What a tokenizer is trained on at most, about; the caller takes a sample of a larger corpus. SentencePiece
needs some 20 bytes of memory for each."""
MAX_ALPHABET = 1000
"""Characters of a trained WordPiece vocabulary at most, the most frequent ones; others become [UNK]."""

Lines = Callable[[], Iterable[str]]
"""Streams a corpus from its beginning, each time that it is called."""


def train(config: TokenizerConfig, lines: Lines) -> Tokenizer:
    """Trains a tokenizer on what `lines` streams, or reads `config.vocab_file`. Same lines, same tokenizer.

    Raises:
      UserError: `config.vocab_size` is too small for the corpus, or the vocabulary file or what is to be
        added to it cannot be used.
    """
    if config.vocab_file is not None:
        words = _given(config, Path(config.vocab_file))
        return extended(words, config.added_tokens) if config.added_tokens else words
    match config.kind:
        case "wordpiece":
            files = _train_wordpiece(config, lambda: _pieces(lines()))
        case "byte_bpe":
            files = _train_byte_bpe(config, lambda: _pieces(lines()))
        case "unigram" | "bpe":
            files = _train_sentencepiece(config, lambda: _pieces(lines()))
    return Tokenizer(files)


def _given(config: TokenizerConfig, file: Path) -> Tokenizer:
    """A tokenizer.json with its folder as they are; or a vocab.txt or SentencePiece model, of config.kind."""
    where = f"data.tokenizer.vocab_file {file}"
    try:
        native = file.read_bytes()
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error}") from error
    if file.suffix == ".json":
        return _complete(files_of(file.parent) | {JSON: native}, where)
    try:
        match config.kind:
            case "byte_bpe":
                raise UserError("it must be a tokenizer.json")
            case "wordpiece":
                stated = settings(file.parent)
                files = conversion.of_vocabulary(native, lowercase=config.lowercase, stated=stated)
            case kind:
                files = conversion.of_sentencepiece(native, kind=kind, lowercase=config.lowercase)
        return Tokenizer(files)
    except (ValueError, RuntimeError) as error:  # SentencePiece raises a RuntimeError
        raise UserError(f"{where} is no {config.kind} vocabulary: {error}") from error


def _complete(files: conversion.Files, where: str) -> Tokenizer:
    """With a tokenizer_config.json, if there is none: Transformers would not know the special tokens."""
    words = Tokenizer(files, where=where)
    if SETTINGS in files:
        return words
    names = words.special_tokens.names(words.pieces)
    return Tokenizer(files | {SETTINGS: conversion.settings_file(names)}, where=where)


def _train_sentencepiece(config: TokenizerConfig, lines: Lines) -> conversion.Files:
    import sentencepiece  # not there where a model is only trained

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines()),
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc_cf" if config.lowercase else "nmt_nfkc",
            num_threads=16,  # not the number of cores: it changes the result
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=PAD,
            unk_piece=UNK,
            bos_piece=CLS,
            eos_piece=SEP,
            control_symbols=[MASK],
            minloglevel=2,
        )
    except RuntimeError as error:
        # SentencePiece says: "Vocabulary size is smaller than required_chars. 10 vs 70. Increase ..."
        if needed := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
            raise _too_small(config, int(needed[1])) from error
        raise UserError(f"SentencePiece cannot train data.tokenizer on this corpus: {error}") from error
    return conversion.of_sentencepiece(model.getvalue(), kind=config.kind, lowercase=config.lowercase)


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    """Lines, each once, and long ones cut.

    Phrases that a site puts on all its pages are no more words than others; SentencePiece takes minutes over
    texts that repeat, and leaves out lines of more than 4,192 bytes.
    """
    seen: set[int] = set()
    for line in lines:
        if (key := hash(line)) not in seen:
            seen.add(key)
            for start in range(0, len(line), 1000):
                yield line[start : start + 1000]


def _too_small(config: TokenizerConfig, needed: int) -> UserError:
    return UserError(
        f"data.tokenizer.vocab_size {config.vocab_size} is too small: the characters of the corpus alone "
        f"need {needed} pieces"
    )


def _train_wordpiece(config: TokenizerConfig, lines: Lines) -> conversion.Files:
    model = conversion.wordpiece(list(SPECIAL_PIECES), unk=UNK, lowercase=config.lowercase)
    characters: Counter[str] = Counter()
    for line in lines():
        characters.update(model.normalizer.normalize_str(line))
    alphabet = sorted(character for character in characters if not character.isspace())
    alphabet = sorted(alphabet, key=lambda character: -characters[character])[:MAX_ALPHABET]
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        # The trainer breaks ties by id, and gives the ids of continued characters in the order of a hash
        # table, another one each time. Named here, they have fixed ids, and the result is the same each time.
        special_tokens=[*SPECIAL_PIECES, *(f"##{character}" for character in alphabet)],
        show_progress=False,
    )
    model.train_from_iterator(lines(), trainer)
    pieces = sorted(model.get_vocab().items(), key=lambda item: item[1])
    if len(pieces) > config.vocab_size:
        raise _too_small(config, len(pieces))
    vocabulary = "".join(f"{piece}\n" for piece, _ in pieces).encode()
    return conversion.of_vocabulary(vocabulary, lowercase=config.lowercase, stated={})


def _train_byte_bpe(config: TokenizerConfig, lines: Lines) -> conversion.Files:
    """Byte-level BPE with GPT-2's pattern after NFC, as GPT-NeoX, OLMo and ModernBERT have it.

    No space is put before a text: behind "[MASK]" in a text one would be too many. What makes the first word
    of a line the same as elsewhere is `Tokenizer.line_start`.
    """
    model = tokenizers.Tokenizer(models.BPE())
    normal = [normalizers.NFC(), normalizers.Lowercase()] if config.lowercase else [normalizers.NFC()]
    model.normalizer = normalizers.Sequence(normal)
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if (needed := len(SPECIAL_PIECES) + len(alphabet)) > config.vocab_size:
        raise _too_small(config, needed)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL_PIECES),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    model.train_from_iterator(lines(), trainer)
    names = conversion.names_of(model.get_vocab(), {})
    return conversion.of_library(model, names, kind=config.kind, lowercase=config.lowercase)

"""Folders of tokenizers that were trained here, or have an older form than tokenizer.json: contents by name.

vocab.txt and SentencePiece's model stay in them, beside a tokenizer.json that gives the same ids.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from data_pipeline import line_ends
from data_pipeline.errors import UserError, require
from data_pipeline.special_tokens import special_tokens_of

Files = dict[str, bytes]

NATIVE = {"unigram": "spiece.model", "bpe": "spiece.model", "wordpiece": "vocab.txt"}
"""By kind of tokenizer, the file that it has beside tokenizer.json."""

MAX_WORD = 100
"""Characters. WordPiece makes a longer word [UNK], as google-research/bert/tokenization.py does."""


def of_vocabulary(vocabulary: bytes, *, lowercase: bool, stated: Mapping[str, Any]) -> Files:
    """WordPiece from a vocab.txt.

    Args:
      stated: what the tokenizer_config.json beside it says of special tokens.

    Raises:
      UserError: it is none, or a special token is missing.
    """
    vocabulary = line_ends.unified(vocabulary.removeprefix(codecs.BOM_UTF8))
    try:
        pieces = vocabulary.decode().rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = vocabulary.count(b"\n", 0, error.start) + 1
        raise UserError(f"line {line} is not valid UTF-8 ({error.reason}); convert the file") from error
    ids: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        first = ids.setdefault(piece, i)
        require(first == i, f"the vocabulary has a piece twice: {piece!r}, in lines {first + 1} and {i + 1}")
    names = names_of(ids, stated)
    require("unk" in names, "the vocabulary has no unk token, such as [UNK]; WordPiece needs one")
    library = wordpiece(pieces, unk=names["unk"], lowercase=lowercase)
    files = of_library(library, names, kind="wordpiece", lowercase=lowercase)
    return {NATIVE["wordpiece"]: vocabulary} | files


def of_sentencepiece(model: bytes, *, kind: str, lowercase: bool) -> Files:
    """Unigram or BPE from a SentencePiece model.

    Raises:
      UserError, RuntimeError: it is none, or a special token is missing.
    """
    import sentencepiece  # not there where a model is only trained

    sentencepiece.SentencePieceProcessor(model_proto=model)  # raises what is wrong with it, most of it
    try:
        library = _from_sentencepiece(model)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"its pieces fit together in no way that is known ({error})") from error
    names = names_of(library.get_vocab(), {})
    return {NATIVE[kind]: model} | of_library(library, names, kind=kind, lowercase=lowercase)


def of_library(
    library: tokenizers.Tokenizer, names: Mapping[str, str], *, kind: str, lowercase: bool
) -> Files:
    """What Transformers wants beside a vocabulary: special tokens, around a text and by their roles.

    Args:
      names: special tokens by role.
    """
    # Where a word carries the space before it, a mask stands for both.
    takes_space = isinstance(library.pre_tokenizer, pre_tokenizers.ByteLevel)
    library.add_special_tokens(
        [
            AddedToken(name, lstrip=takes_space and role == "mask", normalized=False)
            for role, name in names.items()
        ]
    )
    library.post_processor = template(names["cls"], names["sep"], library.get_vocab())
    return {
        "tokenizer.json": library.to_str(pretty=True).encode(),
        "tokenizer_config.json": settings_file(names, kind=kind, lowercase=lowercase),
    }


def settings_file(names: Mapping[str, str], **further: Any) -> bytes:
    """A tokenizer_config.json by which Transformers takes tokenizer.json as it is."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        **{f"{role}_token": name for role, name in names.items()},
        "clean_up_tokenization_spaces": False,
        **further,
    }
    return f"{json.dumps(config, indent=2)}\n".encode()


def names_of(ids: Mapping[str, int], stated: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens of a vocabulary by role. Raises UserError if one is missing."""
    special = special_tokens_of(ids, stated, others=(), where="the vocabulary")
    return special.names({id: piece for piece, id in ids.items()})


def template(cls: str, sep: str, ids: Mapping[str, int]) -> processors.TemplateProcessing:
    """BERT's [CLS] A [SEP] B [SEP]."""
    return processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )


def wordpiece(pieces: list[str], *, unk: str, lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's tokenizer (google-research/bert/tokenization.py: FullTokenizer)."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=unk, max_input_chars_per_word=MAX_WORD)
    )
    model.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece()
    return model


def _from_sentencepiece(native: bytes) -> tokenizers.Tokenizer:
    """A SentencePiece model's normalizer, pieces and scores, in Hugging Face's library."""
    from sentencepiece import sentencepiece_model_pb2

    protos: Any = sentencepiece_model_pb2  # generated code, without types
    proto = protos.ModelProto.FromString(native)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unk = proto.trainer_spec.unk_id
    if proto.trainer_spec.model_type == protos.TrainerSpec.UNIGRAM:
        model = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unk))
    else:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        merges = _merges(pieces, ids)
        model = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=pieces[unk][0], fuse_unk=True))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    model.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Strip(),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    )
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    model.decoder = decoders.Metaspace(prepend_scheme="always")
    return model


def _merges(pieces: list[tuple[str, float]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """BPE merges from pieces: every split of a piece in two pieces, in the order of the pieces' scores."""
    merges = []
    for piece, score in pieces:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        known.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges += [(score, pair) for pair in known]
    merges.sort(key=lambda item: item[0], reverse=True)
    return [pair for _, pair in merges]

"""Subword tokenizers: SentencePiece (unigram, BPE) and WordPiece, trained or loaded.

Every tokenizer is saved twice in its folder: in its native form, which prepares data, and as tokenizer.json,
which Hugging Face's AutoTokenizer and our fill-mask read. Both give the same ids.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
from etils import epath
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_pipeline.config import TokenizerConfig, read_object
from data_pipeline.errors import UserError

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_PIECES = (PAD, UNK, CLS, SEP, MASK)
TRAINING_CHARACTERS = 32_000_000
"""What a tokenizer is trained on at most, about; the caller takes a sample of a larger corpus. SentencePiece
needs some 20 bytes of memory for each."""
MAX_ALPHABET = 1000
"""Characters of a trained WordPiece vocabulary at most, the most frequent ones; others become [UNK]."""
MAX_WORD = 100
"""Characters. WordPiece makes a longer word [UNK], as google-research/bert/tokenization.py does."""

KNOWN_WORDS = 200_000
"""Words whose pieces are remembered, about."""

CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Characters that BERT takes for words, first and last of each range (tokenization.py: _is_chinese_char)."""

Lines = Callable[[], Iterable[str]]
"""Streams a corpus from its beginning, each time that it is called."""

NATIVE_FILES = {"unigram": "spiece.model", "bpe": "spiece.model", "wordpiece": "vocab.txt"}


class Tokenizer:
    """Text to ids. Special pieces come only from this program, never from the text.

    Args:
      kind: "unigram", "bpe" or "wordpiece".
      native: content of the native file, a SentencePiece model or a vocab.txt.
      lowercase: whether the text is lower-cased. SentencePiece models carry this in themselves.
    """

    def __init__(self, kind: str, native: bytes, *, lowercase: bool):
        self.kind = kind
        self.native = native
        self.lowercase = lowercase
        match kind:
            case "unigram" | "bpe":
                self._sentencepiece = sentencepiece.SentencePieceProcessor(model_proto=native)
                self.pieces = [
                    self._sentencepiece.id_to_piece(i) for i in range(self._sentencepiece.vocab_size())
                ]
            case "wordpiece":
                self.pieces = native.decode().rstrip("\n").split("\n")
                if len(set(self.pieces)) < len(self.pieces):
                    raise UserError("the vocabulary has a piece twice")
                self._wordpiece = _wordpiece(self.pieces, lowercase=lowercase)
                self._wordpiece.encode_special_tokens = True  # a "[SEP]" in the corpus is plain text
                self._known: dict[str, list[int]] = {}
            case _:
                raise AssertionError(kind)
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        missing = [piece for piece in SPECIAL_PIECES if piece not in self.ids]
        if missing:
            raise UserError(f"the vocabulary has no {', '.join(missing)}; BERT needs all of {SPECIAL_PIECES}")
        if self.ids[PAD] != 0:
            raise UserError(f"the vocabulary has {PAD} at {self.ids[PAD]}; it must be the first piece")

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @property
    def special_ids(self) -> list[int]:
        """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK], in this order."""
        return [self.ids[piece] for piece in SPECIAL_PIECES]

    @property
    def continues_word(self) -> np.ndarray:
        """[V] bool: the pieces that continue the word of the piece before them.

        A SentencePiece piece does, punctuation too, if it has no mark of a space. But if it starts with a
        Chinese character it does not: a text without spaces is more than one word.
        """

        def continues(piece: str) -> bool:
            if piece in SPECIAL_PIECES:
                return False
            if self.kind == "wordpiece":
                return piece.startswith("##")
            return not piece.startswith("\u2581") and not _is_cjk(piece[0])

        return np.array([continues(piece) for piece in self.pieces])

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.native + self.kind.encode() + bytes([self.lowercase])).hexdigest()

    def encode_batch(self, lines: list[str]) -> list[list[int]]:
        """Ids of each line, without special tokens."""
        if self.kind == "wordpiece":
            return self._encode_by_word(lines)
        return self._sentencepiece.encode(lines, out_type=int, num_threads=1)

    def _encode_by_word(self, lines: list[str]) -> list[list[int]]:
        """WordPiece does not look across a space, and most words have been seen before."""
        split = [line.split(" ") for line in lines]
        if len(self._known) > KNOWN_WORDS:
            self._known.clear()
        new = list(set(chain.from_iterable(split)).difference(self._known))
        encodings = self._wordpiece.encode_batch_fast(new, add_special_tokens=False)
        self._known.update(zip(new, (encoding.ids for encoding in encodings), strict=True))
        known = self._known
        return [[i for word in words for i in known[word]] for words in split]

    def to_huggingface(self) -> tokenizers.Tokenizer:
        """The same tokenizer in Hugging Face's library, with BERT's [CLS] A [SEP] B [SEP] around the text."""
        if self.kind == "wordpiece":
            converted = _wordpiece(self.pieces, lowercase=self.lowercase)
        else:
            converted = _from_sentencepiece(self.native)
        converted.add_special_tokens(list(SPECIAL_PIECES))
        converted.post_processor = processors.TemplateProcessing(
            single=f"{CLS} $A {SEP}",
            pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
            special_tokens=[(CLS, self.ids[CLS]), (SEP, self.ids[SEP])],
        )
        return converted

    def save(self, directory: Path | epath.Path) -> None:
        """Writes the native file, tokenizer.json and tokenizer_config.json into a new `directory`."""
        directory.mkdir(parents=True)
        (directory / NATIVE_FILES[self.kind]).write_bytes(self.native)
        (directory / "tokenizer.json").write_text(self.to_huggingface().to_str(pretty=True))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "pad_token": PAD,
            "unk_token": UNK,
            "cls_token": CLS,
            "sep_token": SEP,
            "mask_token": MASK,
            "clean_up_tokenization_spaces": False,
            "kind": self.kind,
            "lowercase": self.lowercase,
        }
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _is_cjk(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in CJK)


def load(directory: Path | epath.Path) -> Tokenizer:
    """Reads what `Tokenizer.save` wrote."""
    config = settings(directory)
    native = (directory / NATIVE_FILES[config["kind"]]).read_bytes()
    return Tokenizer(config["kind"], native, lowercase=config["lowercase"])


def load_fast(directory: Path) -> tokenizers.Tokenizer:
    """The tokenizer of a model's folder in Hugging Face's library: its tokenizer.json, or an older vocab.txt.

    Raises:
      FileNotFoundError, UserError: there is none, or it is damaged.
    """
    file, vocabulary = directory / "tokenizer.json", directory / "vocab.txt"
    if not file.is_file() and not vocabulary.is_file():
        raise FileNotFoundError(f"{directory} has no {file.name}, nor a {vocabulary.name}")
    if not file.is_file():
        return load_vocabulary(directory).to_huggingface()
    try:
        found = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"{file} is damaged ({error})") from error
    found.no_truncation()  # settings of whoever saved it, which Transformers overrides too
    found.no_padding()
    return found


def load_vocabulary(directory: Path) -> Tokenizer:
    """The WordPiece tokenizer of a folder that is older than tokenizer.json and has a vocab.txt.

    Whether it lowers the case, a tokenizer_config.json may say (`do_lower_case`); otherwise it does unless
    there are pieces that it would never find then, as in the cased models of google-research/bert.
    """
    native = (directory / "vocab.txt").read_bytes()
    pieces = native.decode(errors="replace").split("\n")
    cased = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    fields = {"do_lower_case": not cased} | settings(directory)
    return Tokenizer("wordpiece", native, lowercase=bool(fields["do_lower_case"]))


def settings(directory: Path) -> dict[str, Any]:
    """What Hugging Face's tokenizer_config.json says. Raises UserError if it is damaged."""
    file = directory / "tokenizer_config.json"
    return read_object(file) if file.is_file() else {}


def train(config: TokenizerConfig, lines: Lines) -> Tokenizer:
    """Trains a tokenizer on what `lines` streams, or reads `config.vocab_file`. Same lines, same tokenizer.

    Raises:
      UserError: `config.vocab_size` is too small for the corpus, or the vocabulary file cannot be used.
    """
    if config.vocab_file is not None:
        try:
            native = Path(config.vocab_file).read_bytes()
            if config.kind == "wordpiece" and config.vocab_file.endswith(".json"):
                native = _vocabulary_of(native)
            return Tokenizer(config.kind, native, lowercase=config.lowercase)
        except (OSError, ValueError, RuntimeError) as error:  # SentencePiece raises a RuntimeError
            raise UserError(
                f"data.tokenizer.vocab_file {config.vocab_file} is no {config.kind} vocabulary: {error}"
            ) from error
    train_native = _train_wordpiece if config.kind == "wordpiece" else _train_sentencepiece
    native = train_native(config, lambda: _pieces(lines()))
    return Tokenizer(config.kind, native, lowercase=config.lowercase)


def _vocabulary_of(tokenizer_json: bytes) -> bytes:
    """vocab.txt from Hugging Face's tokenizer.json, all that newer models have."""
    found = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    if not isinstance(found.model, models.WordPiece):
        raise UserError(f"its model is a {type(found.model).__name__}")
    ids = found.get_vocab()
    return "\n".join(sorted(ids, key=lambda piece: ids[piece])).encode()


def _train_sentencepiece(config: TokenizerConfig, lines: Lines) -> bytes:
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
    return model.getvalue()


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


def _train_wordpiece(config: TokenizerConfig, lines: Lines) -> bytes:
    model = _wordpiece(list(SPECIAL_PIECES), lowercase=config.lowercase)
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
    return "".join(f"{piece}\n" for piece, _ in pieces).encode()


def _wordpiece(pieces: list[str], *, lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's tokenizer (google-research/bert/tokenization.py: FullTokenizer)."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=MAX_WORD)
    )
    model.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    model.decoder = decoders.WordPiece()
    return model


def _from_sentencepiece(native: bytes) -> tokenizers.Tokenizer:
    """A SentencePiece model's normalizer, pieces and scores, in Hugging Face's library."""
    protos: Any = sentencepiece_model_pb2  # generated code, without types
    proto = protos.ModelProto.FromString(native)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if proto.trainer_spec.model_type == protos.TrainerSpec.UNIGRAM:
        model = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id))
    else:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        model = tokenizers.Tokenizer(models.BPE(ids, _merges(pieces, ids), unk_token=UNK, fuse_unk=True))
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

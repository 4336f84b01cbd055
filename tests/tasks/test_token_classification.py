"""Token classification: words with a label each, from every source to their rows, and entities as a whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_jax.config import TokenClassificationConfig
from bert_jax.tasks import token_classification
from bert_jax.tasks.records import Empty
from bert_jax.tasks.token_classification import TokenLabels, read, read_stdin
from tests.helpers.examples import (
    AWKWARD_WORDS,
    KINDS,
    assert_theirs,
    features_of,
    pieces,
    round_trip,
    theirs,
    words,
    write,
)

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # as those of seqeval

SETTINGS = TokenClassificationConfig(text="tokens", label="ner")


def settings_of(*labels: str, S: int = 32) -> TokenClassificationConfig:
    return TokenClassificationConfig(labels=labels, sequence_length=S)


# Files


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.conll",
            "-DOCSTART- -X- O\n\nParis NNP B-LOC\nis VBZ O\n 東京\tNNP \tB-LOC \n\n \n"
            "-DOCSTART- -X- O\nSo RB O\n",
        ),
        (
            "a.jsonl",
            '{"tokens": ["Paris", "is", "東京"], "ner": ["B-LOC", "O", "B-LOC"]}\n'
            '{"tokens": ["So"], "ner": ["O"]}',
        ),
    ],
)
def test_every_kind_of_file_gives_the_same_words(tmp_path: Path, name: str, content: str, packing: str):
    examples = read(write(tmp_path, name + packing, content), SETTINGS)
    assert [(example.words, example.labels) for example in examples] == [
        (("Paris", "is", "東京"), ("B-LOC", "O", "B-LOC")),
        (("So",), ("O",)),
    ]


GERMEVAL = """\
#\thttp://de.wikipedia.org/wiki/Paris [2009-10-17]
1\tParis\tB-LOC\tO
2\tist\tO\tO
3\t#1\tO\tO

#\thttp://de.wikipedia.org/wiki/So [2009-10-17]
1\tSo\tO\tO
"""
CONLL_U = """\
# newdoc id = one
# sent_id = 1
# text = au 10 000
1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_
1\tà\tà\tADP\t_\t_\t3\tcase\t_\t_
2\tle\tle\tDET\t_\tDefinite=Def\t3\tdet\t_\tGloss=a b
2.1\tvu\tvoir\tVERB\t_\t_\t_\t_\t_\t_
3\t10 000\t10 000\tNUM\t_\t_\t0\troot\t_\t_

# a comment of no known kind
1\tSo\tso\tADV\t_\t_\t0\troot\t_\t_
"""


def sentences(path: str, *, labelled: bool = True, **columns: str) -> list[tuple[str, str]]:
    """Words and labels of each, with spaces between them."""
    found = read(path, TokenClassificationConfig(**columns), labelled=labelled)
    return [("|".join(example.words), " ".join(example.labels or ())) for example in found]


@pytest.mark.parametrize(
    ("name", "content", "columns", "expected"),
    [
        ("a.conll", GERMEVAL, {"text": "2", "label": "3"}, ("Paris|ist|#1", "B-LOC O O", "So", "O")),
        ("a.conll", GERMEVAL, {"text": "FORM", "label": "4"}, ("Paris|ist|#1", "O O O", "So", "O")),
        ("a.conll", CONLL_U, {"text": "FORM", "label": "UPOS"}, ("à|le|10 000", "ADP DET NUM", "So", "ADV")),
        (
            "a.conll",
            CONLL_U,
            {"text": "3", "label": "deprel"},
            ("à|le|10 000", "case det root", "so", "root"),
        ),
        ("a.conllu", CONLL_U, {}, ("à|le|10 000", "ADP DET NUM", "So", "ADV")),
        ("a.CONLLU", CONLL_U, {"text": "lemma"}, ("à|le|10 000", "ADP DET NUM", "so", "ADV")),
    ],
)
def test_columns_are_named_by_number_or_as_in_conll_u(
    tmp_path: Path, name: str, content: str, columns: dict[str, str], expected: tuple[str, ...]
):
    """Comments, words written as one and words that are not written are left out."""
    assert sentences(write(tmp_path, name, content), **columns) == [expected[:2], expected[2:]]


NUMBERED = [
    GERMEVAL,
    CONLL_U,
    "0 Paris B-LOC\n1 is O\n\n0 So O\n",
    "1 Paris B-LOC\n2 is O\n\n3 So O\n4 far O\n",
    "1. Paris B-LOC\n2. is O\n\n1. So O\n",
    "1-1 Paris B-LOC\n1-2 is O\n\n2-1 So O\n",
    "s1-9 Paris B-LOC\ns1-10 is O\n\ns2-1 So O\n",
    "1 Paris B-LOC\n3 is O\n\n7 So O\n",
    "6 Paris B-LOC\n\n1 So O\n\n1 is O\n",
    "1 Paris B-LOC\n2 is O\n\n" + "1 So O\n2 a O\n3 b O\n4 c O\n5 d O\n6 e O\n7 f O\n7 g O\n9 h O\n\n" * 2,
]


@pytest.mark.parametrize("content", NUMBERED)
def test_a_column_of_numbers_is_not_taken_for_words(tmp_path: Path, content: str):
    path = write(tmp_path, "a.conll", content)
    with pytest.raises(ValueError, match=r"a\.conll: the first column numbers the words; .*--task\.text 2"):
        read(path, SETTINGS)
    words = sentences(path, labelled=False)[1][0].split("|")
    assert words[0] == "So", "to predict, they are in the second one"
    assert sentences(path, text="2", label="3")[1][0].split("|") == words


def test_a_column_that_is_the_same_for_all_is_not_taken_for_words(tmp_path: Path):
    """As in CoNLL-2012."""
    rows = "".join(f"bc/0 0 {number} word{number} NN\n" for number in range(12))
    path = write(tmp_path, "a.conll", f"#begin document (bc/0); part 000\n{rows}\n#end document\n")
    with pytest.raises(ValueError, match=r"the first column is the same for all words; .*--task\.text 2"):
        read(path, SETTINGS)
    assert sentences(path, text="4", label="5")[0][0].startswith("word0|word1|")


@pytest.mark.parametrize(
    "content", ["1 B-X\n3 I-X\n\n7 O\n2 O\n", "1 B-X\n\n2 O\n", "2024 O\nor O\n2025 O\n"]
)
def test_numbers_may_be_words(tmp_path: Path, content: str):
    path = write(tmp_path, "a.conll", content)
    assert "|".join(words for words, _ in sentences(path)) == "|".join(re.findall(r"(\S+) ", content))


def test_numbers_alone_are_words(tmp_path: Path):
    assert sentences(write(tmp_path, "a.conll", "1\n2\n3\n"), labelled=False) == [("1|2|3", "")]


def test_numbers_that_count_on_are_words_where_that_is_said(tmp_path: Path):
    path = write(tmp_path, "a.conll", "1 B-X\n2 I-X\n\n7 O\n8 O\n")
    assert sentences(path, text="1") == [("1|2", "B-X I-X"), ("7|8", "O O")]


def test_between_tabs_a_word_may_have_spaces_and_a_column_be_empty(tmp_path: Path):
    path = write(tmp_path, "a.conll", "New York\t\tB-LOC\nis\tVERB\tO\n\nso\t\tO\n")
    assert sentences(path) == [("New York|is", "B-LOC O"), ("so", "O")]
    path = write(tmp_path, "a.conll", "Paris\t\tB-LOC\nis  \tO\n")  # as far as tabs align columns
    assert sentences(path) == [("Paris|is", "B-LOC O")]


def test_a_hashtag_is_a_word(tmp_path: Path):
    content = "#nlp\t#\nis\tV\n#paris\t#\n\n#ai\t#\n#newdoc\t#\n\n#https://x.y\t#\n"
    path = write(tmp_path, "a.conll", content)
    assert [words for words, _ in sentences(path)] == ["#nlp|is|#paris", "#ai|#newdoc", "#https://x.y"]
    with pytest.raises(ValueError, match="line 2: a broken row of 3 columns, not 2"):
        sentences(write(tmp_path, "b.conll", "so O\n#so so O\n"))


def test_comments_stand_anywhere(tmp_path: Path):
    content = "Paris B-LOC\n# comment\nis O\n# a longer comment\nso O\n#end document\n"
    path = write(tmp_path, "a.conll", content)
    assert sentences(path) == [("Paris|is|so", "B-LOC O O")]
    path = write(tmp_path, "b.conll", "# hello\nParis NNP B-LOC\nis V O\n")
    assert sentences(path, labelled=False) == [("Paris|is", "")]


def test_a_comment_as_wide_as_a_row_is_none_of_its_words(tmp_path: Path):
    """Its last column is no label of any other row."""
    path = write(tmp_path, "a.conll", "# comment\nParis LOC\n\n# O\nis O\n")
    assert sentences(path) == [("Paris", "LOC"), ("#|is", "O O")]
    with pytest.raises(ValueError, match="line 2 has 2 columns, and no column 3"):
        sentences(path, label="3")
    path = write(tmp_path, "b.conll", "# so much\nParis\n\n#\nis\n")
    assert [words for words, _ in sentences(path, labelled=False)] == ["Paris", "#|is"]


def test_a_hash_may_be_a_word_and_begins_a_comment_where_it_cannot_be(tmp_path: Path):
    content = "# id = 7\n#ff O\n# O\nParis B-LOC\n\n# a comment of five words\n# newdoc\n# O\n\n# text = So\n"
    content += "\nis O\n"
    assert sentences(write(tmp_path, "a.conll", content)) == [
        ("#ff|#|Paris", "O O B-LOC"),
        ("#", "O"),
        ("is", "O"),
    ]


def test_a_sentence_is_where_its_first_word_is(tmp_path: Path):
    path = write(tmp_path, "a.conll", "-DOCSTART- O\n\nParis LOC\nis O\n\nSo O\n")
    assert [example.where for example in read(path, SETTINGS)] == [f"{path} line 3", f"{path} line 6"]


def test_words_to_predict_are_a_list_or_a_string_or_a_column(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"tokens": ["New York", "!"]}\n{"tokens": " New York !"}')
    found = [example.words for example in read(path, SETTINGS, labelled=False)]
    assert found == [("New York", "!"), ("New", "York", "!")]
    path = write(tmp_path, "a.conll", "New\nYork O O\n\n10\u00a0000\n")
    examples = read(path, SETTINGS, labelled=False)
    assert [(example.words, example.labels) for example in examples] == [
        (("New", "York"), None),
        (("10\u00a0000",), None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "Paris LOC\nis\n", r"a\.conll line 2: a broken row of 1 columns, not 2"),
        ("a.conll", "Paris\n", r"a\.conll line 1: a broken row of 1 columns, not 2"),
        ("a.conll", "Paris N LOC\n\nis V\n", r"a\.conll line 3: a broken row of 2 columns, not 3"),
        ("a.conll", b"Paris LOC\n\xff O\n", r"a\.conll line 2: not valid UTF-8"),
        ("a.conll", "\u00a0 O\n", r"a\.conll line 1: 'tokens' has an empty word"),
        ("a.conll", "-DOCSTART- O\n\n", r"a\.conll has no examples"),
        ("a.conll", "# id = 1\n\n# id = 2\n", r"a\.conll has no examples"),
        ("a.conllu", "1 So O\n", r"a\.conllu line 1 has 3 columns, and no column 4"),
        ("a.conll", "a 0\nb 3\n", r"line 1: 'ner' has 0, a number, not a name: .*--task\.labels O B-PER"),
        ("a.jsonl", '{"tokens": ["a"], "ner": [3]}', r"line 1: 'ner' has 3, a number, not a name: name the"),
        ("a.jsonl", '{"tokens": ["a"], "ner": [-1]}', r"line 1: 'ner' has -1, a number, not a name"),
        ("a.jsonl", '{"tokens": ["a"], "ner": [-100]}', r"line 1: 'ner' is -100, no label, for all words"),
        ("a.jsonl", '{"tokens": ["a", "b"], "ner": ["O"]}', r"a\.jsonl line 1 has 2 words and 1 labels"),
        ("a.jsonl", '{"tokens": [], "ner": []}', r"line 1: 'tokens' has no words"),
        ("a.jsonl", '{"tokens": ["a", " "], "ner": ["O", "O"]}', r"line 1: 'tokens' has an empty word"),
        ("a.jsonl", '{"tokens": ["a", 2], "ner": ["O", "O"]}', r"line 1: 'tokens' is not a list of words"),
        ("a.jsonl", '{"tokens": "a b", "ner": ["O", "O"]}', r"line 1: 'tokens' is not a list of words"),
        ("a.jsonl", '{"tokens": ["a"], "ner": "O"}', r"line 1: 'ner' is not a list of labels"),
        ("a.jsonl", '{"tokens": ["a"], "ner": [""]}', r"line 1: 'ner' is empty"),
        (
            "a.jsonl",
            '{"tokens": ["a"], "pos": ["N"]}',
            r"has no column 'ner'; it has tokens, pos; .*--task\.label",
        ),
        (
            "a.tsv",
            "tokens\tner\na\tO\n",
            r"a\.tsv' is no source of token_classification examples; .*\.conll, \.conllu, \.jsonl, each",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_row(
    tmp_path: Path, name: str, content: str | bytes, message: str
):
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path, name, content), SETTINGS)
    assert "\n" not in str(error.value)


# Lines of standard input


def test_a_line_is_words():
    def typed(line: str) -> list[TokenLabels]:
        return [*read_stdin([b"\xef\xbb\xbf" + line.encode() + b"\r\n"], SETTINGS)]

    where = "standard input line 1"
    assert typed("10\u202f000  fans") == [TokenLabels(where, ("10", "000", "fans"))]
    assert typed("New\0York \ufeff!") == [TokenLabels(where, ("New", "York", "!"))]


def test_an_empty_line_has_a_place_and_what_is_wrong_with_one_is_said_with_its_number():
    lines = read_stdin([b"one\n", b" \n", b"caf\xe9"], SETTINGS)
    assert next(lines).words == ("one",)
    assert next(lines) == Empty("standard input line 2", "standard input line 2: 'tokens' has no words")
    with pytest.raises(ValueError, match="standard input line 3: not valid UTF-8"):
        next(lines)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": "9"}, r"a\.conll line 1 has 2 columns, and no column 9"),
        ({"label": "MISC"}, r"a\.conll line 1 has 2 columns, and no column 10"),
        ({"text": "FROM"}, r"task\.text is 'FROM'; .* has a number, .* or a name of CoNLL-U: ID, FORM"),
        ({"label": "0"}, r"task\.label is '0'; .* from 1 on"),
    ],
)
def test_a_column_that_is_not_there_is_named(tmp_path: Path, columns: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        sentences(write(tmp_path, "a.conll", "a O\n"), **columns)


# TFDS


@pytest.fixture
def small_names(store_tfds: Callable[..., None]) -> str:
    """Shaped like TFDS's conll2003."""
    import tensorflow_datasets as tfds

    sequence, names = tfds.features.Sequence, tfds.features.ClassLabel(names=["O", "B-LOC"])
    store_tfds(
        "small_names",
        {"tokens": sequence(tfds.features.Text()), "ner": sequence(names)},
        train=[{"tokens": ["Paris", "東京", "!"], "ner": [1, 1, 0]}, {"tokens": ["So"], "ner": [0]}],
        test=[{"tokens": ["Paris"], "ner": [-1]}],
    )
    return "tfds:small_names"


def test_tfds_gives_the_same_examples_as_files(small_names: str):
    source = f"{small_names}:train"
    assert read(source, SETTINGS) == [
        TokenLabels(f"{source} record 1", ("Paris", "東京", "!"), ("B-LOC", "B-LOC", "O")),
        TokenLabels(f"{source} record 2", ("So",), ("O",)),
    ]
    with pytest.raises(ValueError, match="test record 1: the label is -1, which stands for none"):
        read(f"{small_names}:test", SETTINGS)


# Labels


def test_the_labels_are_those_of_the_examples_unless_others_are_asked_for():
    examples = [TokenLabels("", ("a", "b"), ("O", "B-X")), TokenLabels("", ("c",), ("I-X",))]
    assert token_classification.with_labels(SETTINGS, examples).labels == ("B-X", "I-X", "O")
    asked = settings_of("O", "B-X", "I-X", "B-Y")
    assert token_classification.with_labels(asked, examples) == asked


def test_a_label_must_be_known():
    with pytest.raises(ValueError, match=r"^dev.conll row 3 has the label 'B-X'; known are 'O'$"):
        features_of(settings_of("O"), [TokenLabels("dev.conll row 3", ("a", "b"), ("O", "B-X"))])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"tokens": ["a", "b", "c"], "ner": [0, 2.0, "1"]}'),
        ("a.conll", "a 0\nb 2\nc B-X\n"),
    ],
)
def test_numbers_count_the_labels_that_are_named(tmp_path: Path, name: str, content: str):
    """As Hugging Face's datasets have them."""
    path = write(tmp_path, name, content)
    (found,) = read(path, settings_of("O", "B-X", "I-X"))
    assert found.labels == ("O", "I-X", "B-X")
    with pytest.raises(ValueError, match=r"line 1: 'ner' is 2; labels are counted from 0 on, and the last"):
        read(path, settings_of("O", "B-X"))


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.jsonl", '{"tokens": ["a", "b", "c"], "ner": [-100, "B-X", "-100"]}', ()),
        ("a.jsonl", '{"tokens": ["a", "b", "c"], "ner": [-100, 1, -100.0]}', ("O", "B-X")),
        ("a.conll", "a -100\nb B-X\nc -100\n", ()),
    ],
)
def test_a_word_may_have_no_label(tmp_path: Path, name: str, content: str, labels: tuple[str, ...]):
    """Hugging Face's -100. It is neither learned nor scored, and predicted as others are."""
    settings = settings_of(*labels)
    examples = read(write(tmp_path, name, content), settings)
    assert examples[0].labels == (None, "B-X", None)
    settings = token_classification.with_labels(settings, examples)
    assert settings.labels == (labels or ("B-X",))
    features = features_of(settings, examples)
    assert features.places[0, :5].tolist() == [-1, 0, 1, 2, -1]
    assert features.arrays["weights"][0, :5].tolist() == [0, 0, 1, 0, 0]
    assert features.arrays["labels"][0, 2] == settings.labels.index("B-X")
    for said in ["B-X", "B-X", "B-X"], ["O", "B-X", None]:
        scores = token_classification.score(examples, [{"labels": said}], settings)
        assert scores == {"precision": 1, "recall": 1, "f1": 1, "accuracy": 1}


def test_a_number_that_stands_for_none_is_no_label(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "ner": [-1, 0]}')
    with pytest.raises(ValueError, match="line 1: 'ner' is -1, which stands for none"):
        read(path, settings_of("O", "B-X"))


def test_numbers_that_are_asked_for_are_names(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"tokens": ["a", "b"], "ner": [1, 0]}')
    (found,) = read(path, settings_of("1", "0"))
    assert found.labels == ("1", "0")


# Rows


@given(st.lists(words, min_size=1, max_size=20), st.integers(8, 40))
@settings(deadline=None)
def test_words_are_hugging_faces(some: list[str], S: int):
    features = features_of(settings_of(S=S), [TokenLabels("row 1", tuple(some))])
    arguments = {"is_split_into_words": True, "truncation": True, "max_length": S}
    encoded = theirs()([some], padding="max_length", **arguments)
    assert_theirs(features, encoded)
    word_ids = [-1 if word is None else word for word in encoded.word_ids(0)]
    firsts = [word if word != before else -1 for before, word in zip([-1, *word_ids], word_ids, strict=False)]
    assert features.places.tolist() == [firsts]


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_has_a_first_piece(kind: str):
    """Also a word that the tokenizer drops; and its neighbours keep their labels."""
    labels = [str(i) for i in range(len(AWKWARD_WORDS))]
    example = TokenLabels("row 1", tuple(AWKWARD_WORDS), tuple(labels))
    features = features_of(settings_of(*labels, S=512), [example], kind=kind)
    (columns,) = np.nonzero(features.places[0] >= 0)
    assert features.places[0, columns].tolist() == list(range(len(AWKWARD_WORDS)))
    assert features.arrays["labels"][0, columns].tolist() == list(range(len(AWKWARD_WORDS)))
    assert features.arrays["weights"][0].tolist() == (features.places[0] >= 0).tolist()
    assert not features.arrays["labels"][0, features.places[0] < 0].any()
    assert features.cut == []
    # Each word has its own pieces, as if there were no other one but the first.
    ends = [*columns[1:], features.arrays["segment_lengths"].sum() - 1]
    for word, start, end in zip(AWKWARD_WORDS[1:], columns[1:], ends[1:], strict=True):
        alone = features_of(settings_of(S=512), [TokenLabels("row 1", (AWKWARD_WORDS[0], word))], kind=kind)
        first = int(np.flatnonzero(alone.places[0] == 1)[0])
        assert pieces(alone, 0, slice(first, -1), kind) == pieces(features, 0, slice(start, end), kind)


def test_a_dropped_word_is_unknown():
    features = features_of(settings_of(), [TokenLabels("row 1", ("a", "\u200d", "b"))])
    assert pieces(features) == ["[CLS]", "a", "[UNK]", "b", "[SEP]"]


def test_a_long_sentence_ends_with_the_row():
    """A word may lose pieces, but not the first; those beyond have no column."""
    example = TokenLabels("row 1", ("a", "b", "c", "d", "e", "unaffordable", "g"), tuple("0123456"))
    features = features_of(settings_of(*"0123456", S=8), [example, TokenLabels("row 2", (), ())])
    assert pieces(features)[-2:] == ["una", "[SEP]"]
    assert features.places.tolist() == [[-1, 0, 1, 2, 3, 4, 5, -1], [-1] * 8]
    assert features.arrays["labels"].tolist() == [[0, 0, 1, 2, 3, 4, 5, 0], [0] * 8]
    assert features.arrays["weights"].tolist() == [[0, 1, 1, 1, 1, 1, 1, 0], [0] * 8]
    assert pieces(features, 1) == ["[CLS]", "[SEP]"]
    assert features.cut == ["row 1"]


# Predictions


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_labels_of_words_come_back(kind: str, data: st.DataObject):
    labels = ["O", "B-A", "I-A"]
    words = data.draw(
        st.lists(st.sampled_from(AWKWARD_WORDS).filter(lambda word: len(word) < 20), max_size=12)
    )
    truth = data.draw(st.lists(st.sampled_from(labels), min_size=len(words), max_size=len(words)))
    examples = [TokenLabels("row 1", tuple(words), tuple(truth))]
    said = round_trip(settings_of(*labels, S=128), examples, kind=kind)
    assert said == [{"words": words, "labels": truth}]


def test_words_beyond_the_row_have_no_label():
    examples = [TokenLabels("row 1", tuple("abcdefgh"), ("O", "X") * 4), TokenLabels("row 2", ("a",), ("X",))]
    said = round_trip(settings_of("O", "X", S=8), examples)
    assert said[0] == {"words": list("abcdefgh"), "labels": ["O", "X", "O", "X", "O", "X", None, None]}
    assert said[1] == {"words": ["a"], "labels": ["X"]}


# Scores


def tagged(truth: list[str], said: list[str | None]) -> dict[str, float]:
    """Of one sentence."""
    words = tuple("w" for _ in truth)
    settings = settings_of(*sorted({*truth, *said} - {None}))
    predictions = [{"words": list(words), "labels": said}]
    return token_classification.score([TokenLabels("", words, tuple(truth))], predictions, settings)


def test_entities_count_as_a_whole():
    """Of three entities one is found, one is cut short, one is missed."""
    truth = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "B-LOC"]
    said = ["B-PER", "I-PER", "O", "B-LOC", "O", "O"]
    assert tagged(truth, said) == pytest.approx(
        {"precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "accuracy": 4 / 6}
    )


def test_the_type_of_an_entity_counts():
    assert tagged(["B-PER", "O"], ["B-LOC", "O"]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0.5}


@pytest.mark.parametrize(
    "labels",
    [["I-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"], ["B-PER", "E-PER", "O"], ["O", "S-PER", "S-LOC"]],
)
def test_all_schemes_are_understood(labels: list[str]):
    assert tagged(labels, labels)["f1"] == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("B-X L-X B-X L-X / B-X L-X B-X O", "B-X E-X B-X E-X / B-X E-X B-X O"),
        ("B-X I-X L-X U-X / B-X I-X L-X O", "B-X I-X E-X S-X / B-X I-X E-X O"),
        ("B-X L-X U-Y U-Y / B-X U-X U-Y O", "B-X E-X S-Y S-Y / B-X S-X S-Y O"),
        ("B I I O / B I O O", "B-X I-X I-X O / B-X I-X O O"),
        ("B_X I_X B_Y O / B_X I_X B_X O", "B-X I-X B-Y O / B-X I-X B-X O"),
        ("X-B X-I Y-B O / X-B X-I X-B O", "B-X I-X B-Y O / B-X I-X B-X O"),
        ("b.X i.X b.Y o / b.X i.X o b.X", "B-X I-X B-Y O / B-X I-X O B-X"),
        ("B-X M-X E-X B-X / B-X M-X E-X O", "B-X I-X E-X B-X / B-X I-X E-X O"),
        ("B-X I-X _ _ / B-X _ _ B-X", "B-X I-X O O / B-X O O B-X"),
        ("OTHER B-X I-X B-X / OTHER B-X I-X OTHER", "O B-X I-X B-X / O B-X I-X O"),
        ("B L U O / B L O U", "B-X E-X S-X O / B-X E-X O S-X"),
    ],
)
def test_the_letters_of_bilou_and_labels_without_a_type_are_entities_as_the_others(one: str, other: str):
    scores = [tagged(*map(str.split, case.split(" / "))) for case in (one, other)]
    assert scores[0] == scores[1]
    assert scores[0]["f1"] < 1


def test_a_whole_entity_without_a_type_counts():
    assert tagged(["B", "I", "I", "O"], ["B", "I", "O", "O"])["f1"] == 0
    assert tagged(["B", "I", "O", "B"], ["B", "I", "O", "O"])["f1"] == pytest.approx(2 / 3)


def test_letters_beside_other_labels_begin_nothing():
    """The nouns S, adjectives A and interjections I of some corpora."""
    assert tagged(["S", "A", "I", "I"], ["S", "A", "I", "A"]) == pytest.approx(
        {"accuracy": 3 / 4, "macro_f1": (1 + 2 / 3 + 2 / 3) / 3}
    )


def test_a_label_beside_those_of_a_scheme_is_of_one_word():
    scores = tagged(["B-PER", "I-PER", "X", "X"], ["B-PER", "I-PER", "X", "O"])
    assert scores["recall"] == pytest.approx(2 / 3)


def test_a_word_without_a_prediction_is_outside():
    truth = ["B-PER", "O", "B-PER", "O"]
    assert tagged(truth, ["B-PER", "O", None, None]) == tagged(truth, ["B-PER", "O", "O", "O"])


def test_nothing_found_scores_nothing():
    assert tagged(["B-PER"], ["O"]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 0}
    assert tagged(["O"], ["O"]) == {"precision": 0, "recall": 0, "f1": 0, "accuracy": 1}


@pytest.mark.parametrize(
    "truth",
    ["NOUN NOUN VERB DET", "O O PER LOC", "-LRB- -LRB- NN PRP$", "NOUN NOUN E-mail VERB", "A A S I-x"],
)
def test_labels_that_begin_nothing_are_scored_by_word(truth: str):
    """Parts of speech, among others: the accuracy leads. A word without a prediction is a miss."""
    found = tagged(truth.split(), [truth.split()[0], None, *truth.split()[2:]])
    assert found == pytest.approx({"accuracy": 3 / 4, "macro_f1": (2 / 3 + 1 + 1) / 3})
    metrics = token_classification.metrics(settings_of(*sorted({*truth.split()})))
    assert [metric.name for metric in metrics] == ["accuracy", "macro_f1"]


@pytest.mark.parametrize(
    "labels",
    [
        "B-PER I-PER O",
        "I-PER O",
        "S-X E-X O X",
        "B I O",
        "U-X L-X B-X",
        "B_PER I_PER O",
        "PER-B PER-I O",
        "X_U O",
        "b-per i-per o",
        "B:PER O",
        "B-PER M-PER E-PER _",
    ],
)
def test_labels_of_a_scheme_are_scored_by_entity(labels: str):
    metrics = token_classification.metrics(settings_of(*labels.split()))
    assert [metric.name for metric in metrics] == ["f1", "precision", "recall", "accuracy"]

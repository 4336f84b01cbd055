"""Examples of tasks: the same from every kind of file; what is wrong with one is said with its row."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bert_jax.tasks.examples import Answer, Example, Question, Text, Words, read, read_typed
from data_pipeline.config import TaskConfig
from tests.helpers.paths import SHARED_DATA

PAIRS = TaskConfig(text="question1", pair="question2", label="same")
WORDS = TaskConfig(text="tokens", label="ner")

AWKWARD = [
    'She said "no", twice',
    '"a quote that never ends',
    "tears 😭 and a family 👩‍👩‍👧",
    "e\u0301 composed of two, é of one",
    "한국어 and 東京, \u200fright to left\u200e",
    "  spaces around  ",
    "no-break\u00a0space",
]


def write(folder: Path, name: str, content: str | bytes) -> str:
    raw = content.encode() if isinstance(content, str) else content
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") and isinstance(content, str) else raw)
    return str(path)


def squad(*questions: dict[str, Any], context: str = "Paris is in France.") -> str:
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": questions}]}]})


def texts(examples: list[Example]) -> list[tuple[str, str | None, str | float | None]]:
    return [(example.text, example.pair, example.label) for example in examples]


# Classification and regression


@pytest.mark.parametrize("packing", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "id\tlabel\tsentence\n0\t1\ta fine film\n1\t0\tno film\n"),
        ("a.csv", "id,label,sentence\n0,1,a fine film\n1,0,no film\n"),
        (
            "a.jsonl",
            '{"sentence": "a fine film", "label": "1"}\n{"sentence": "no film", "label": 0, "id": 1}\n',
        ),
    ],
)
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, name: str, content: str, packing: str):
    examples = read("classification", write(tmp_path, name + packing, content), TaskConfig())
    assert texts(examples) == [("a fine film", None, "1"), ("no film", None, "0")]


def test_an_example_says_where_it_is_by_its_row_in_a_table_and_by_its_line_elsewhere(tmp_path: Path):
    table = write(tmp_path, "a.tsv", "sentence\tlabel\none\t1\ntwo\t0\n")
    assert [example.where for example in read("classification", table, TaskConfig())] == [
        f"{table} row 1",
        f"{table} row 2",
    ]
    lines = write(tmp_path, "a.jsonl", '{"sentence": "one", "label": 1}\n\n{"sentence": "two", "label": 0}\n')
    assert [example.where for example in read("classification", lines, TaskConfig())] == [
        f"{lines} line 1",
        f"{lines} line 3",
    ]
    sentences = write(tmp_path, "a.conll", "-DOCSTART- O\n\nParis LOC\nis O\n\nSo O\n")
    assert [example.where for example in read("tokens", sentences, WORDS)] == [
        f"{sentences} line 3",
        f"{sentences} line 6",
    ]


def test_a_pair_of_texts_has_a_column_each(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "question1\tquestion2\tsame\nHow?\tHow so?\tyes\n")
    assert texts(read("classification", path, PAIRS)) == [("How?", "How so?", "yes")]


def test_regression_has_numbers(tmp_path: Path):
    rows = ["-1.5", "3", "1e-3"]
    path = write(tmp_path, "a.csv", "sentence,label\n" + "".join(f"text,{row}\n" for row in rows))
    labels = [example.label for example in read("regression", path, TaskConfig())]
    assert labels == [-1.5, 3.0, 0.001]
    assert all(type(label) is float for label in labels)
    path = write(tmp_path, "a.jsonl", '{"sentence": "a", "label": 3}\n{"sentence": "b", "label": "2.5"}')
    assert [example.label for example in read("regression", path, TaskConfig())] == [3.0, 2.5]


def test_whole_numbers_and_truth_values_of_json_are_labels_too(tmp_path: Path):
    rows = [{"sentence": "text", "label": label} for label in ("good", 1, True, " 1 ")]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    labels = [example.label for example in read("classification", path, TaskConfig())]
    assert labels == ["good", "1", "True", "1"]


def test_texts_come_through_as_they_are(tmp_path: Path):
    def read_back(path: str) -> list[str]:
        return [example.text for example in read("classification", path, TaskConfig())]

    rows = [f"{text}\t1" for text in AWKWARD]
    assert read_back(write(tmp_path, "a.tsv", "\n".join(["sentence\tlabel", *rows]))) == AWKWARD
    rows = [json.dumps({"sentence": text, "label": 1}) for text in AWKWARD]
    assert read_back(write(tmp_path, "a.jsonl", "\n".join(rows))) == AWKWARD
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence", "label"), *((text, 1) for text in AWKWARD)])
    assert read_back(str(tmp_path / "a.csv")) == AWKWARD


def test_a_quoted_csv_cell_may_hold_line_ends_and_counts_as_one_row(tmp_path: Path):
    path = write(tmp_path, "a.csv", 'sentence,label\n"first line\nsecond, ""quoted""",1\nplain,0\n')
    examples = read("classification", path, TaskConfig())
    assert texts(examples) == [('first line\nsecond, "quoted"', None, "1"), ("plain", None, "0")]
    assert examples[1].where == f"{path} row 2"


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_byte_order_marks_windows_line_ends_and_empty_lines_at_the_end(tmp_path: Path, name: str):
    content = {
        "a.tsv": "sentence\tlabel\none\t1\ntwo\t0\n\n",
        "a.csv": "sentence,label\none,1\ntwo,0\n\n",
        "a.jsonl": '{"sentence": "one", "label": 1}\n{"sentence": "two", "label": 0}\n\n',
    }[name]
    path = write(tmp_path, name, b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    assert texts(read("classification", path, TaskConfig())) == [("one", None, "1"), ("two", None, "0")]


def test_half_a_surrogate_pair_and_nuls_do_not_reach_the_tokenizer(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", r'{"sentence": "half \ud83d, nul \u0000.", "label": 1}')
    assert texts(read("classification", path, TaskConfig())) == [("half \ufffd, nul  .", None, "1")]


def test_to_predict_no_labels_are_needed_nor_looked_at(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "sentence\none\ntwo\n")
    assert texts(read("classification", path, TaskConfig(), labelled=False)) == [
        ("one", None, None),
        ("two", None, None),
    ]
    path = write(tmp_path, "b.tsv", "sentence\tlabel\none\t\n")
    assert texts(read("regression", path, TaskConfig(), labelled=False)) == [("one", None, None)]
    path = write(tmp_path, "a.txt.gz", 'one, "quoted"\n two\ttabs\n')
    examples = read("regression", path, TaskConfig(text="anything"), labelled=False)
    assert [(example.where, example.text) for example in examples] == [
        (f"{path} line 1", 'one, "quoted"'),
        (f"{path} line 2", " two\ttabs"),
    ]


def test_the_real_sst2():
    """67,349 sentences, of which a tenth is set aside for validation; quotes in them are characters."""
    folder = SHARED_DATA / "sst2"
    if not folder.is_dir():
        pytest.skip("no SST-2 here")
    train = read("classification", str(folder / "train.tsv"), TaskConfig())
    validation = read("classification", str(folder / "validation.tsv"), TaskConfig())
    assert len(train) + len(validation) == 67_349
    assert Counter(example.label for example in [*train, *validation]) == {"1": 37_569, "0": 29_780}
    assert train[0] == Text(f"{folder / 'train.tsv'} row 1", "when are bears bears and ", None, "1")
    assert train[-1].where == f"{folder / 'train.tsv'} row {len(train)}"


# Tokens


@pytest.mark.parametrize("packing", ["", ".gz"])
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
    examples = read("tokens", write(tmp_path, name + packing, content), WORDS)
    assert [(example.words, example.labels) for example in examples] == [
        (("Paris", "is", "東京"), ("B-LOC", "O", "B-LOC")),
        (("So",), ("O",)),
    ]


def test_words_to_predict_are_a_list_or_a_string_or_a_column(tmp_path: Path):
    path = write(tmp_path, "a.jsonl", '{"tokens": ["New York", "!"]}\n{"tokens": " New York !"}')
    words = [example.words for example in read("tokens", path, WORDS, labelled=False)]
    assert words == [("New York", "!"), ("New", "York", "!")]
    path = write(tmp_path, "a.conll", "New\nYork O O\n\n10\u00a0000\n")
    examples = read("tokens", path, WORDS, labelled=False)
    assert [(example.words, example.labels) for example in examples] == [
        (("New", "York"), None),
        (("10\u00a0000",), None),
    ]


# Questions


def test_squad_has_answers_by_several_people_and_questions_without_one(tmp_path: Path):
    answers = [{"text": "Paris", "answer_start": 0}, {"text": "France", "answer_start": 12}]
    content = squad(
        {"id": "q1", "question": "Where?", "answers": answers},
        {"id": "q2", "question": "Who?", "is_impossible": True, "answers": [], "plausible_answers": answers},
    )
    for name in ("a.json", "a.json.gz"):
        path = write(tmp_path, name, content)
        context = "Paris is in France."
        assert read("qa", path, TaskConfig()) == [
            Question(f"{path} row 1", "q1", "Where?", context, (Answer("Paris", 0), Answer("France", 12))),
            Question(f"{path} row 2", "q2", "Who?", context, ()),
        ]


def test_questions_of_json_lines_may_lack_an_id(tmp_path: Path):
    flat = {"question": "Where?", "context": "In Rome.", "answers": {"text": ["Rome"], "answer_start": [3]}}
    rows = [{"id": "q1"} | flat, flat]
    path = write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read("qa", path, TaskConfig()) == [
        Question(f"{path} line 1", "q1", "Where?", "In Rome.", (Answer("Rome", 3),)),
        Question(f"{path} line 2", "2", "Where?", "In Rome.", (Answer("Rome", 3),)),
    ]


def test_questions_to_predict_need_no_answers(tmp_path: Path):
    path = write(tmp_path, "a.json", squad({"id": "q1", "question": "Where?"}))
    assert read("qa", path, TaskConfig(), labelled=False) == [
        Question(f"{path} row 1", "q1", "Where?", "Paris is in France.", None)
    ]


def test_an_answer_starts_at_a_character_whatever_bytes_or_marks_are_before_it(tmp_path: Path):
    context = "👩‍👩‍👧 e\u0301\ufeff 東京 Rome"
    answer = {"text": "Rome", "answer_start": context.index("Rome")}
    path = write(
        tmp_path, "a.json", squad({"id": "q", "question": "Where?", "answers": [answer]}, context=context)
    )
    (example,) = read("qa", path, TaskConfig())
    assert "\ufeff" not in example.context
    assert example.context[example.answers[0].start :] == "Rome"


# What is wrong


TABLE = [
    (
        "a.tsv",
        "text\tlabel\none\t1\n",
        r"a\.tsv row 1 has no column 'sentence'; it has text, label.*--task\.text",
    ),
    (
        "a.csv",
        "sentence,stars\none,1\n",
        r"row 1 has no column 'label'; it has sentence, stars.*--task\.label",
    ),
    ("a.jsonl", '{"sentence": "one"}', r"a\.jsonl line 1 has no column 'label'; it has sentence"),
    ("a.csv", "label,label\none,1\n", r"a\.csv header names a column twice: label, label"),
    ("a.tsv", "sentence\tlabel\none\t1\ntwo\n", r"a\.tsv row 2 has 1 cells; the header has 2"),
    ("a.tsv", "sentence\tlabel\none\ttwo\t1\n", r"a\.tsv row 1 has 3 cells; the header has 2"),
    ("a.csv", "sentence,label\none,two,1\n", r"a\.csv row 1 has 3 cells; the header has 2"),
    ("a.csv", "sentence,label\none,1\n\ntwo,0\n", r"a\.csv row 2 has 0 cells; the header has 2"),
    ("a.csv", 'sentence,label\none,1\n"two,0\nthree,1\n', r"a\.csv row 2 cannot be read: unexpected end"),
    ("a.csv", '"sentence,label\none,1\n', r"a\.csv header cannot be read: unexpected end"),
    ("a.tsv", "sentence\tlabel\n \t1\n", r"a\.tsv row 1: 'sentence' is empty"),
    ("a.tsv", "sentence\tlabel\none\t \n", r"a\.tsv row 1: 'label' is empty"),
    ("a.jsonl", '{"sentence": null, "label": 1}', r"line 1: 'sentence' is None, not a text"),
    ("a.jsonl", '{"sentence": "one", "label": 1.0}', r"line 1: 'label' is 1\.0, neither a string nor"),
    ("a.jsonl", '{"sentence": "one", "label": null}', r"line 1: 'label' is None, neither a string nor"),
    ("a.jsonl", '{"sentence": "one", "label": 1}\n[1]', r"a\.jsonl line 2: not a JSON object"),
    ("a.jsonl", '{"sentence": "one", "label": 1}\n{"se', r"a\.jsonl line 2: not JSON \(Unterminated"),
    ("a.jsonl", "[" * 100_000, r"a\.jsonl line 1: not JSON"),
    ("a.jsonl", '{"sentence": "one", "label": ' + "1" * 5000 + "}", r"a\.jsonl line 1: not JSON"),
    ("a.tsv", b"sentence\tlabel\none\t1\n\xff\t1\n", r"a\.tsv line 3: not valid UTF-8"),
    ("a.csv", b"sentence,label\none,1\n\xff,1\n", r"a\.csv line 3: not valid UTF-8"),
    ("a.jsonl", '{"sentence": "one"}'.encode("utf-16"), r"a\.jsonl line 1: not valid UTF-8"),
    ("a.tsv.gz", b"not gzip", r"a\.tsv\.gz: not a whole compressed file"),
    (
        "a.tsv.gz",
        gzip.compress(b"sentence\tlabel\none\t1\n")[:-9],
        r"a\.tsv\.gz: not a whole compressed file",
    ),
    ("a.tsv.gz", gzip.compress(b"one\t1\n" * 99)[:12] + bytes(9), r"a\.tsv\.gz: not a whole compressed file"),
    ("a.tsv", "", r"a\.tsv has no examples"),
    ("a.csv", "sentence,label\n", r"a\.csv has no examples"),
    ("a.jsonl", "\n\n", r"a\.jsonl has no examples"),
    ("a.txt", "one\n", r"a\.txt' is no source of classification examples; files are \.tsv, \.csv or \.jsonl"),
    ("a.conll", "one 1\n", r"a\.conll' is no source of classification examples; .* tfds:NAME:SPLIT"),
]

SENTENCES = [
    ("a.conll", "Paris LOC\nis\n", r"a\.conll line 2: a broken row of 1 columns, not 2"),
    ("a.conll", "Paris\n", r"a\.conll line 1: a broken row of 1 columns, not 2"),
    ("a.conll", "Paris N LOC\n\nis V\n", r"a\.conll line 3: a broken row of 2 columns, not 3"),
    ("a.conll", b"Paris LOC\n\xff O\n", r"a\.conll line 2: not valid UTF-8"),
    ("a.conll", "\u00a0 O\n", r"a\.conll line 1: 'tokens' has an empty word"),
    ("a.conll", "-DOCSTART- O\n\n", r"a\.conll has no examples"),
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
    ("a.tsv", "tokens\tner\na\tO\n", r"a\.tsv' is no source of tokens examples; .*\.conll or \.jsonl"),
]


def asked(*answers: tuple[str, object], **changes: object) -> str:
    """SQuAD with one question, q1."""
    given = [{"text": text, "answer_start": start} for text, start in answers]
    return squad({"id": "q1", "question": "Where?", "answers": given} | changes)


QUESTIONS = [
    ("a.json", asked(("Rome", 0)), r"a\.json row 1, question 'q1': the answer 'Rome' is not at character 0"),
    (
        "a.json",
        asked(("Paris", 1)),
        r"question 'q1': the answer 'Paris' is not at character 1 of the context",
    ),
    ("a.json", asked((" Paris", 0)), r"question 'q1': the answer ' Paris' is not at character 0"),
    ("a.json", asked(("France.", -7)), r"question 'q1': the answer 'France\.' is not at character -7"),
    ("a.json", asked(("Paris", "0")), r"question 'q1': the answer 'Paris' is not at character '0'"),
    ("a.json", asked(("", 0)), r"question 'q1': the answer '' is no text"),
    ("a.json", asked(question=" "), r"a\.json row 1, question 'q1': 'question' is empty"),
    ("a.json", squad({"id": "q1", "question": "?"}, context=""), r"question 'q1': 'context' is empty"),
    ("a.json", squad({"id": "q1", "question": "Where?"}), r"question 'q1' has no column 'answers'"),
    (
        "a.json",
        squad(*2 * [{"id": "q1", "question": "Where?", "answers": []}]),
        r"a\.json row 2: the id 'q1' is that of .*a\.json row 1 too",
    ),
    ("a.json", '{"data": [{"title": "Paris"}]}', r"a\.json does not have SQuAD's form.*'paragraphs'"),
    ("a.json", "[]", r"a\.json does not have SQuAD's form"),
    ("a.json", '{"data": [{"paragraphs": [{"context": "a", "qas": ["q"]}]}]}', r"does not have SQuAD's form"),
    ("a.json", '{"data": []}', r"a\.json has no examples"),
    ("a.json", '{"data":\n[', r"a\.json: not JSON \(.*line 2"),
    ("a.json", b'{"data":\n"\xff"}', r"a\.json line 2: not valid UTF-8"),
    ("a.jsonl", '{"question": "?", "answers": []}', r"line 1, question '1' has no column 'context'"),
    (
        "a.jsonl",
        '{"question": "?", "context": "a", "answers": {"text": ["a"], "answer_start": []}}',
        r"a\.jsonl line 1, question '1': 'answers' is not \{'text'",
    ),
    ("a.tsv", "question\tcontext\n?\ta\n", r"a\.tsv' is no source of qa examples; .*\.json or \.jsonl"),
]


@pytest.mark.parametrize(
    ("head", "name", "content", "message"),
    [
        *(("classification", *row) for row in TABLE),
        *(("tokens", *row) for row in SENTENCES),
        *(("qa", *row) for row in QUESTIONS),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_row(
    tmp_path: Path, head: Any, name: str, content: str | bytes, message: str
):
    with pytest.raises(ValueError, match=message) as error:
        read(head, write(tmp_path, name, content), WORDS if head == "tokens" else TaskConfig())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", ["nan", "-inf", "1e39", "-1e39", "abc", "1,5", " "])
def test_a_number_must_be_a_finite_one(tmp_path: Path, label: str):
    path = write(tmp_path, "a.tsv", f"sentence\tlabel\none\t1\ntwo\t{label}\n")
    with pytest.raises(ValueError, match=f"a.tsv row 2: 'label' is '{label}', not a finite number"):
        read("regression", path, TaskConfig())


@pytest.mark.parametrize("label", ["NaN", "Infinity", "true", "null", "[1]", "1" * 40, "1" * 400])
def test_a_number_of_json_must_be_a_finite_one(tmp_path: Path, label: str):
    path = write(tmp_path, "a.jsonl", f'{{"sentence": "one", "label": {label}}}')
    with pytest.raises(ValueError, match=r"a\.jsonl line 1: 'label' is .*, not a finite number"):
        read("regression", path, TaskConfig())


def test_an_empty_line_of_a_text_file_is_not_skipped(tmp_path: Path):
    """The predictions would not be beside their texts."""
    path = write(tmp_path, "a.txt", "one\n\ntwo\n")
    with pytest.raises(ValueError, match=r"a\.txt line 2: 'sentence' is empty"):
        read("classification", path, TaskConfig(), labelled=False)


def test_a_second_text_that_is_not_there_is_named(tmp_path: Path):
    path = write(tmp_path, "a.csv", "question1,same\nHow?,yes\n")
    with pytest.raises(
        ValueError, match=r"has no column 'question2'; it has question1, same; .*--task\.pair"
    ):
        read("classification", path, PAIRS)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"a\.tsv"):
        read("classification", str(tmp_path / "a.tsv"), TaskConfig())


def test_to_predict_no_other_column_can_be_chosen(tmp_path: Path):
    path = write(tmp_path, "a.tsv", "text\nHow?\n")
    with pytest.raises(
        ValueError, match="'sentence'; it has text; the model was trained on a column of that"
    ):
        read("classification", path, TaskConfig(), labelled=False)


# Lines of standard input


def test_a_line_is_a_text_or_words_and_where_there_are_two_columns_an_object():
    def typed(head: Any, line: str, task: TaskConfig) -> list[Example]:
        return [*read_typed(head, [b"\xef\xbb\xbf" + line.encode() + b"\r\n"], task)]

    where = "standard input line 1"
    assert typed("classification", ' "one"\u2028two ', TaskConfig()) == [Text(where, ' "one"\u2028two ')]
    assert typed("tokens", "10\u202f000  fans", WORDS) == [Words(where, ("10", "000", "fans"))]
    assert typed("tokens", "New\0York \ufeff!", WORDS) == [Words(where, ("New", "York", "!"))]
    pair = '{"question2": "How so\\ud83d?", "question1": "How?"}'
    assert typed("classification", pair, PAIRS) == [Text(where, "How?", "How so\ufffd?")]
    question = '{"question": "Where?", "context": "In Rome.", "id": 7}'
    assert typed("qa", question, TaskConfig()) == [Question(where, "7", "Where?", "In Rome.")]


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("classification", b"caf\xe9", "line 2: not valid UTF-8"),
        ("classification", b" \n", "line 2: 'sentence' is empty"),
        ("tokens", b"\n", "line 2: 'tokens' has no words"),
        (
            "qa",
            b"Who?",
            r'line 2: not JSON .*; the model wants an object a line, \{"question": "...", "context',
        ),
        ("qa", b"[" * 100_000, "line 2: not JSON"),
        ("qa", b"[1]", "line 2: not a JSON object; the model wants"),
        ("qa", b'{"question": "Who?"}', "line 2, question '2' has no column 'context'"),
        ("qa", b'{"question": 5, "context": "a"}', "line 2, question '2': 'question' is 5, not a text"),
        ("qa", b'{"question": "Who?", "context": null}', "line 2, question '2': 'context' is None"),
        ("qa", b'{"question": "Who?", "context": " "}', "line 2, question '2': 'context' is empty"),
        (
            "pairs",
            b"How?",
            r'line 2: not JSON .*wants an object a line, \{"question1": "...", "question2": "',
        ),
        ("pairs", b'{"question1": "How?"}', "line 2 has no column 'question2'; it has question1"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(head: Any, line: bytes, message: str):
    task = {"pairs": PAIRS, "tokens": WORDS}.get(head, TaskConfig())
    first = b'{"question": "Where?", "context": "a", "question1": "a", "question2": "b"}\n'
    lines = read_typed("classification" if head == "pairs" else head, [first, line], task)
    next(lines)
    with pytest.raises(ValueError, match=f"standard input {message}") as error:
        next(lines)
    assert "\n" not in str(error.value)


# TFDS


@pytest.fixture
def tfds_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """small_reviews, small_names and small_questions, shaped like TFDS's glue, conll2003 and squad."""
    import numpy as np
    import tensorflow as tf
    import tensorflow_datasets as tfds

    text, stars = tfds.features.Text(), tfds.features.ClassLabel(names=["bad", "good"])

    def store(name: str, features: dict[str, Any], **splits: list[dict[str, Any]]) -> None:
        columns = tfds.features.FeaturesDict(features)
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path,
            split_datasets={
                split: tf.data.Dataset.from_generator(
                    lambda rows=rows: iter(rows), output_signature=columns.get_tensor_spec()
                )
                for split, rows in splits.items()
            },
            features=columns,
        )

    store(
        "small_reviews",
        {"sentence": text, "label": stars, "score": np.float32, "year": np.int64, "raw": text},
        train=[
            {"sentence": "no film 😭", "label": 0, "score": 0.5, "year": 1999, "raw": b"\xff"},
            {"sentence": "a fine film", "label": 1, "score": 4.5, "year": 2001, "raw": b"\xff"},
        ],
        test=[{"sentence": "a film", "label": -1, "score": np.nan, "year": 2001, "raw": "film"}],
    )
    sequence = tfds.features.Sequence
    store(
        "small_names",
        {"tokens": sequence(text), "ner": sequence(tfds.features.ClassLabel(names=["O", "B-LOC"]))},
        train=[{"tokens": ["Paris", "東京", "!"], "ner": [1, 1, 0]}, {"tokens": ["So"], "ner": [0]}],
        test=[{"tokens": ["Paris"], "ner": [-1]}],
    )
    store(
        "small_questions",
        {
            "id": text,
            "question": text,
            "context": text,
            "answers": sequence({"text": text, "answer_start": np.int32}),
        },
        train=[
            {
                "id": "q1",
                "question": "Where?",
                "context": "東京 or Rome",
                "answers": {"text": ["東京", "Rome"], "answer_start": [0, 6]},
            },
            {"id": "q2", "question": "Who?", "context": "No.", "answers": {"text": [], "answer_start": []}},
        ],
    )
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))  # of the variable TFDS_DATA_DIR


@pytest.mark.usefixtures("tfds_datasets")
def test_tfds_gives_the_same_examples_as_files():
    source = "tfds:small_reviews:train"
    assert read("classification", source, TaskConfig()) == [
        Text(f"{source} record 1", "no film 😭", None, "bad"),
        Text(f"{source} record 2", "a fine film", None, "good"),
    ]
    assert texts(read("regression", source, TaskConfig(label="score"))) == [
        ("no film 😭", None, 0.5),
        ("a fine film", None, 4.5),
    ]
    assert len(read("classification", "tfds:small_reviews:1.0.0:train[:50%]", TaskConfig())) == 1
    assert texts(read("classification", "tfds:small_reviews:test", TaskConfig(), labelled=False)) == [
        ("a film", None, None)
    ]
    source = "tfds:small_names:train"
    assert read("tokens", source, WORDS) == [
        Words(f"{source} record 1", ("Paris", "東京", "!"), ("B-LOC", "B-LOC", "O")),
        Words(f"{source} record 2", ("So",), ("O",)),
    ]
    source = "tfds:small_questions:train"
    answers = (Answer("東京", 0), Answer("Rome", 6))
    assert read("qa", source, TaskConfig()) == [
        Question(f"{source} record 1", "q1", "Where?", "東京 or Rome", answers),
        Question(f"{source} record 2", "q2", "Who?", "No.", ()),
    ]


@pytest.mark.usefixtures("tfds_datasets")
@pytest.mark.parametrize(
    ("head", "source", "task", "message"),
    [
        ("classification", "tfds:small_reviews:test", TaskConfig(), r"test record 1: the label is -1, which"),
        ("tokens", "tfds:small_names:test", WORDS, r"test record 1: the label is -1, which stands for none"),
        ("regression", "tfds:small_reviews:test", TaskConfig(label="score"), r"'score' is nan, not a finite"),
        ("classification", "tfds:small_reviews:train", TaskConfig(text="body"), r"no column 'body'; it has"),
        (
            "classification",
            "tfds:small_reviews:train",
            TaskConfig(text="year"),
            r"'year' is 1999, not a text",
        ),
        ("classification", "tfds:small_reviews:train", TaskConfig(text="raw"), r"record 1: not valid UTF-8"),
        ("classification", "tfds:small_reviews:dev", TaskConfig(), r"tfds:small_reviews:dev: .*dev"),
        ("classification", "tfds:small_reviews:train[:0]", TaskConfig(), r"train\[:0\]: .* no data"),
        ("classification", "tfds:small_reviews", TaskConfig(), r"is not of the form tfds:NAME:SPLIT"),
        ("classification", "tfds:no_such_dataset:train", TaskConfig(), r"tfds:no_such_dataset:train: "),
    ],
)
def test_what_a_tfds_dataset_lacks_is_named(head: Any, source: str, task: TaskConfig, message: str):
    with pytest.raises(ValueError, match=message) as error:
        read(head, source, task)
    assert "\n" not in str(error.value)

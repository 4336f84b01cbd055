"""The section `task`: what an encoder is fine-tuned for; the tasks are in tasks/."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from bert_jax.config.objective import ObjectiveConfig
from data_pipeline.errors import require


@dataclass(frozen=True)
class TaskConfig(ObjectiveConfig):
    """Where the examples of a task are, and how long to train on them."""

    path: ClassVar[str] = "task"
    noted: ClassVar[tuple[str, ...]] = ("sequence_length",)
    """Fields that an exported model keeps, to read and cut new texts as those of the training."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Fields that name the columns of the texts, of one or of two."""
    of_source: ClassVar[tuple[str, ...]] = ()
    """Fields that are as in an init.source for the same task, but where they are not at their default."""

    train: str = ""
    """A file of examples, packed or not, or tfds:NAME:SPLIT, such as tfds:glue/sst2:train. Which kinds of
    file a task reads is in docs/finetuning.md."""
    validation: str = ""
    """Like `train`: scored after each part of the training; the checkpoint with the best score is kept."""
    sequence_length: int = 128
    """Tokens of a row at most; longer texts are cut, contexts of questions read in windows."""
    epochs: float = 3.0
    """Passes over the training examples: train.steps follows from it."""
    warmup: float = 0.1
    """Warm-up as a share of the steps: optimizer.warmup_steps follows from it."""
    evaluations: int = 1
    """Evaluations an epoch: train.eval_every and checkpoint.every follow from it."""
    patience: int | None = None
    """Early stopping: evaluations in a row without a better score before the training ends; None: never."""
    freeze: bool = False
    """Whether the encoder stays as it is and only the head learns: a linear probe if that is one layer."""
    dropout: float | None = None
    """Dropout in place of the rates that the encoder of init.source was trained with; None: those."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.sequence_length >= 8,
            f"task.sequence_length is {self.sequence_length}; it must be at least 8",
        )
        require(self.epochs > 0, f"task.epochs is {self.epochs}; it must be positive")
        require(0 <= self.warmup < 1, f"task.warmup is {self.warmup}; it must be at least 0 and less than 1")
        for name in ("evaluations", "patience"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"task.{name} is {value}; it must be at least 1")
        require(
            self.dropout is None or 0 <= self.dropout < 1,
            f"task.dropout is {self.dropout}; it must be at least 0 and less than 1, or None",
        )

    def like(self, theirs: TaskConfig) -> Self:
        """With the fields `of_source` as they are there, but those that are not at their default here."""
        if type(theirs) is not type(self):
            return self
        usual = type(self)()
        same = (name for name in self.of_source if getattr(self, name) == getattr(usual, name))
        return dataclasses.replace(self, **{name: getattr(theirs, name) for name in same})


@dataclass(frozen=True)
class TextTaskConfig(TaskConfig):
    """A task on a text, or on two."""

    noted: ClassVar[tuple[str, ...]] = (*TaskConfig.noted, "text", "pair", "label")
    columns: ClassVar[tuple[str, ...]] = ("text", "pair")

    text: str = "sentence"
    """Column of the text."""
    pair: str | None = None
    """Column of a second text; None: there is none."""
    label: str = "label"
    """Column of the label, or of the number."""


def _check_labels(labels: tuple[str, ...]) -> None:
    require(len(set(labels)) == len(labels), f"task.labels {labels} has one twice")


@dataclass(frozen=True)
class ClassificationConfig(TextTaskConfig):
    """One of several labels for a text (tasks/classification.py)."""

    kind: ClassVar[str] = "classification"

    labels: tuple[str, ...] = ()
    """Labels in the order of the logits, and of the numbers that may stand for them in the examples; empty:
    those of the training examples, sorted."""
    label_weights: tuple[float, ...] = ()
    """Class weights: what an example of each label weighs in the loss, in their order; empty: the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self.labels)
        require(
            all(0 < weight < float("inf") for weight in self.label_weights),
            f"task.label_weights is {self.label_weights}; all must be positive",
        )


@dataclass(frozen=True)
class MultiLabelConfig(TextTaskConfig):
    """Any number of labels for a text (tasks/multi_label.py)."""

    kind: ClassVar[str] = "multi_label"

    label: str = "labels"
    """Column of the labels: a list, or names with commas between them."""
    labels: tuple[str, ...] = ()
    """Labels in the order of the logits, and of the numbers that may stand for them in the examples; empty:
    those of the training examples, sorted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self.labels)


@dataclass(frozen=True)
class RegressionConfig(TextTaskConfig):
    """A number for a text (tasks/regression.py)."""

    kind: ClassVar[str] = "regression"


@dataclass(frozen=True)
class TokenClassificationConfig(TaskConfig):
    """A label for each word of a sentence (tasks/token_classification.py)."""

    kind: ClassVar[str] = "token_classification"
    noted: ClassVar[tuple[str, ...]] = (*TaskConfig.noted, "text", "label")
    columns: ClassVar[tuple[str, ...]] = ("text",)

    text: str = "tokens"
    """Column of the words; in a CoNLL file its number or CoNLL-U's name, or else the first one."""
    label: str = "ner"
    """Column of their labels; in a CoNLL file likewise, or else the last one."""
    labels: tuple[str, ...] = ()
    """Labels in the order of the logits, and of the numbers that may stand for them in the examples; empty:
    those of the training examples, sorted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_labels(self.labels)


@dataclass(frozen=True)
class QuestionAnsweringConfig(TaskConfig):
    """The part of a context that answers a question (tasks/question_answering.py)."""

    kind: ClassVar[str] = "question_answering"
    noted: ClassVar[tuple[str, ...]] = (*TaskConfig.noted, "stride", "longest_answer")

    stride: int = 64
    """Tokens that neighbouring windows of a long context share."""
    longest_answer: int = 30
    """Tokens of an answer at most."""
    find_answers: bool = False
    """Whether an answer that is not at its place in the context is looked for in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.stride >= 0, f"task.stride is {self.stride}; it must be at least 0")
        require(
            self.longest_answer >= 1, f"task.longest_answer is {self.longest_answer}; it must be at least 1"
        )


Pooling = Literal["mean", "cls", "last"]
"""mean: of all tokens, special ones too; cls: the first token; last: the last one."""


@dataclass(frozen=True)
class GroupTaskConfig(TaskConfig):
    """A task on a text, one that goes with it, and any number of those that do not."""

    columns: ClassVar[tuple[str, ...]] = ("anchor", "positive")

    anchor: str = "anchor"
    """Column of the first text: a query, a question."""
    positive: str = "positive"
    """Column of the text that goes with it; where two texts have a score, of the second one."""
    negative: str = "negative"
    """Column of a text that does not, or of a list of them; and of more in negative_1, negative_2 ..."""


@dataclass(frozen=True)
class EmbeddingConfig(GroupTaskConfig):
    """A vector for a text, close to those of the texts that go with it (tasks/embedding.py)."""

    kind: ClassVar[str] = "embedding"
    noted: ClassVar[tuple[str, ...]] = (
        *TaskConfig.noted,
        *("pooling", "normalize", "dimensions", "query_prompt", "document_prompt"),
    )
    of_source: ClassVar[tuple[str, ...]] = ("pooling", "normalize", "query_prompt", "document_prompt")

    loss: Literal["contrastive", "cosent", "margin_mse"] = "contrastive"
    """contrastive: the positive among all texts of the batch (InfoNCE; van den Oord et al. 2018). cosent: two
    texts with a number for how alike they are (Su 2022). margin_mse: the differences of a teacher's scores
    (Hofstätter et al. 2020)."""
    score: str = "score"
    """Column of the number for cosent; for margin_mse of the teacher's scores, the positive's first, or of
    their differences to it."""
    temperature: float = 0.05
    """What cosines are divided by; Sentence Transformers' `scale` is one over it."""
    symmetric: bool = False
    """Whether each positive has to find its anchor too."""
    margin: float | None = None
    """Texts that are more like the anchor than its positive less this do not count as negatives: they are
    taken for false ones (Moreira et al. 2024, arXiv 2407.15831). None: all count."""
    dimensions: tuple[int, ...] = ()
    """Sizes that a vector may be cut to, each trained as the whole one (Matryoshka; Kusupati et al. 2022)."""
    pooling: Pooling = "mean"
    normalize: bool = True
    """Whether vectors have length 1."""
    query_prompt: str = ""
    """In front of each anchor."""
    document_prompt: str = ""
    """In front of each other text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.freeze, "task.freeze leaves nothing to learn: an embedding is the encoder's, pooled")
        require(self.temperature > 0, f"task.temperature is {self.temperature}; it must be positive")
        require(
            self.margin is None or self.margin >= 0, f"task.margin is {self.margin}; it must be at least 0"
        )
        require(
            all(size >= 1 for size in self.dimensions) and len(set(self.dimensions)) == len(self.dimensions),
            f"task.dimensions is {self.dimensions}; all must be positive and different",
        )
        for name in ("symmetric", "margin"):
            require(
                self.loss == "contrastive" or getattr(self, name) == getattr(EmbeddingConfig, name),
                f"task.{name} is for task.loss contrastive, not {self.loss}",
            )


@dataclass(frozen=True)
class RerankingConfig(GroupTaskConfig):
    """How well each of several texts goes with another one, read together (tasks/reranking.py)."""

    kind: ClassVar[str] = "reranking"
    noted: ClassVar[tuple[str, ...]] = (*TaskConfig.noted, "anchor", "positive")

    loss: Literal["softmax", "binary"] = "softmax"
    """softmax: the positive among the texts of its example (Nogueira and Cho 2019; Gao et al. 2021). binary:
    each text on its own, whether it goes with the anchor."""


@dataclass(frozen=True)
class LateInteractionConfig(GroupTaskConfig):
    """A vector for each token of two texts, compared token by token (tasks/late_interaction.py)."""

    kind: ClassVar[str] = "late_interaction"
    noted: ClassVar[tuple[str, ...]] = (
        *TaskConfig.noted,
        *("query_length", "query_expansion", "query_prompt", "document_prompt", "skip_punctuation"),
    )
    of_source: ClassVar[tuple[str, ...]] = noted[1:]

    dimensions: int = 128
    """Numbers of a token's vector."""
    query_length: int = 32
    """Tokens of an anchor at most; those of each other text are task.sequence_length."""
    query_expansion: bool = False
    """Whether [MASK] fills anchors up to query_length: further vectors, which see the anchor and are seen
    (Khattab and Zaharia 2020, arXiv 2004.12832, section 3.2)."""
    query_prompt: str = ""
    """In front of each anchor: a text, or a piece of the vocabulary that is no word, such as [unused0]."""
    document_prompt: str = ""
    """In front of each other text, likewise."""
    skip_punctuation: bool = True
    """Whether punctuation of the other texts has no vectors."""
    temperature: float = 1.0
    """What scores are divided by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dimensions >= 1, f"task.dimensions is {self.dimensions}; it must be at least 1")
        require(self.query_length >= 8, f"task.query_length is {self.query_length}; it must be at least 8")
        require(self.temperature > 0, f"task.temperature is {self.temperature}; it must be positive")

"""The section `model`: how an encoder is run, and what each kind of encoder is made of.

Fields carry Hugging Face's names. The classes stand here and not beside the encoders in models/, because
whatever reads a config (`--help`, `prepare`, `show-config`) should not wait for JAX.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from data_pipeline.config import Section
from data_pipeline.errors import require


@dataclass(frozen=True)
class ModelConfig(Section):
    """How an encoder is run, whichever it is. By itself it stands for the encoder of `init.source`."""

    path: ClassVar[str] = "model"
    kind: ClassVar[str | None] = None
    """Hugging Face's `model_type`."""

    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the computation; parameters are float32 either way. auto: bfloat16, but float32 on a CPU."""
    scan_unroll: int = 1
    """Layers compiled as one body: 1 compiles fast, num_hidden_layers runs fastest. Same checkpoint."""
    attention: str = "auto"
    """Attention kernel. auto: the first that can do what is asked, on the devices that are there; the log
    says which. None of the fused ones has dropout on the probabilities."""
    remat: Literal["none", "dots", "full", "offload"] = "none"
    """Activations that the backward pass computes again to save memory: none; all but the products with
    weights; whole layers; as dots, with the products kept in the host's memory."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scan_unroll >= 1, f"model.scan_unroll is {self.scan_unroll}; it must be at least 1")


@dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """The sizes that every encoder has; defaults are BERT-base uncased."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters are float32 either way."""
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    initializer_range: float = 0.02
    """Standard deviation of the initial weights, a normal distribution truncated at two of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
        ):
            value = getattr(self, name)
            require(value >= 1, f"model.{name} is {value}; it must be at least 1")
        require(
            self.initializer_range > 0,
            f"model.initializer_range is {self.initializer_range}; it must be positive",
        )
        require(
            self.hidden_size % self.num_attention_heads == 0,
            f"model.hidden_size {self.hidden_size} is not divisible by model.num_attention_heads "
            f"{self.num_attention_heads}",
        )

    @property
    def is_unrolled(self) -> bool:
        """Whether each layer is compiled by itself. A run then has them apart (models/stack.py)."""
        return self.scan_unroll > 1 and self.scan_unroll >= self.num_hidden_layers

    @property
    def period(self) -> int:
        """How many layers it takes until the same kind of layer comes again."""
        return 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def first_position(self) -> int:
        """The row of the table of positions that the first token of a sequence has."""
        return 0

    @property
    def longest(self) -> int:
        """Tokens of a sequence at most."""
        return self.max_position_embeddings - self.first_position

    @property
    def embedding_size(self) -> int:
        """The width of the word embeddings."""
        return self.hidden_size

    @property
    def padded_vocab_size(self) -> int:
        """vocab_size, up to a multiple of 128: matrix units want it. The surplus never wins a softmax."""
        return -(-self.vocab_size // 128) * 128


@dataclass(frozen=True)
class ModernBertConfig(EncoderConfig):
    """ModernBERT (Warner et al. 2024); models/modernbert.py. Defaults are ModernBERT-base."""

    kind: ClassVar[str] = "modernbert"

    vocab_size: int = 50368
    num_hidden_layers: int = 22
    intermediate_size: int = 1152
    max_position_embeddings: int = 8192
    initializer_cutoff_factor: float = 2.0
    """Standard deviations at which the distribution of the initial weights is truncated."""
    hidden_activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    norm_eps: float = 1e-5
    global_attn_every_n_layers: int = 3
    """The first layer, and each so many layers further on, sees all of a sequence; the others a window."""
    local_attention: int = 128
    """Width of the window: a token sees half of it to each side."""
    global_rope_theta: float = 160_000.0
    """Base of the rotary positions (Su et al. 2021) of layers that see all of a sequence. 10,000 in the first
    phase of the published models, of 1,024 tokens."""
    local_rope_theta: float = 10_000.0
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    """Of the attention probabilities; 0 where a fused attention kernel is to be used."""
    attention_output_dropout: float = 0.0
    """Of what attention adds to the residual stream; 0.1 in the published pretraining."""
    mlp_dropout: float = 0.0
    classifier_dropout: float = 0.0
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_activation: Literal["gelu", "gelu_new", "relu"] = "gelu"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.global_attn_every_n_layers >= 1,
            f"model.global_attn_every_n_layers is {self.global_attn_every_n_layers}; it must be at least 1",
        )
        require(
            self.local_attention >= 2 and self.local_attention % 2 == 0,
            f"model.local_attention is {self.local_attention}; it must be even, half of it to each side",
        )
        require(
            self.head_dim % 2 == 0,
            f"model.hidden_size {self.hidden_size} / model.num_attention_heads {self.num_attention_heads} "
            "must be even: rotary positions turn pairs",
        )
        for name in ("initializer_cutoff_factor", "norm_eps", "global_rope_theta", "local_rope_theta"):
            value = getattr(self, name)
            require(value > 0, f"model.{name} is {value}; it must be positive")
        for name in (
            "embedding_dropout",
            "attention_dropout",
            "attention_output_dropout",
            "mlp_dropout",
            "classifier_dropout",
        ):
            value = getattr(self, name)
            require(0 <= value < 1, f"model.{name} is {value}; it must be at least 0 and less than 1")

    @property
    def period(self) -> int:
        return self.global_attn_every_n_layers


@dataclass(frozen=True)
class PostLNConfig(EncoderConfig):
    """What BERT and its relatives have in common; models/bert.py."""

    hidden_act: Literal["gelu", "gelu_new", "relu"] = "gelu"
    """gelu is exact (erf), gelu_new its tanh form (google-research/bert)."""
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    """Dropout of the attention probabilities; 0 where a fused attention kernel is to be used."""

    @property
    def token_types(self) -> int:
        """How many token types there are; 0: none at all."""
        return 0

    @property
    def norm_eps(self) -> float:
        """What LayerNorm adds to the variance."""
        return 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            if "dropout" in field.name and (rate := getattr(self, field.name)) is not None:
                require(0 <= rate < 1, f"model.{field.name} is {rate}; it must be at least 0 and less than 1")


@dataclass(frozen=True)
class BertConfig(PostLNConfig):
    """BERT (Devlin et al. 2018); models/bert.py. Defaults are BERT-base uncased."""

    kind: ClassVar[str] = "bert"

    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @property
    def token_types(self) -> int:
        return self.type_vocab_size

    @property
    def norm_eps(self) -> float:
        return self.layer_norm_eps

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.type_vocab_size >= 1,
            f"model.type_vocab_size is {self.type_vocab_size}; it must be at least 1",
        )
        require(
            self.layer_norm_eps > 0, f"model.layer_norm_eps is {self.layer_norm_eps}; it must be positive"
        )


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """RoBERTa (Liu et al. 2019); models/roberta.py. Defaults are RoBERTa-base."""

    kind: ClassVar[str] = "roberta"

    vocab_size: int = 50265
    max_position_embeddings: int = 514
    """Rows of the table of positions. Those up to pad_token_id no token has."""
    type_vocab_size: int = 1
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    """Id of the padding, the tokenizer's. Positions begin behind it."""
    classifier_dropout: float | None = None
    """Dropout in the head of a task; None: hidden_dropout_prob."""

    @property
    def first_position(self) -> int:
        return self.pad_token_id + 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.pad_token_id < self.vocab_size,
            f"model.pad_token_id is {self.pad_token_id}; it must be the id of one of the "
            f"{self.vocab_size} pieces of model.vocab_size",
        )
        require(
            self.longest >= 1,
            f"model.max_position_embeddings is {self.max_position_embeddings}; positions begin behind "
            f"model.pad_token_id, at {self.first_position}, so there must be more",
        )


@dataclass(frozen=True)
class XlmRobertaConfig(RobertaConfig):
    """XLM-RoBERTa (Conneau et al. 2019); models/roberta.py. Defaults are XLM-RoBERTa-base."""

    kind: ClassVar[str] = "xlm-roberta"

    vocab_size: int = 250002


@dataclass(frozen=True)
class CamembertConfig(RobertaConfig):
    """CamemBERT (Martin et al. 2019); models/roberta.py. Defaults are CamemBERT-base."""

    kind: ClassVar[str] = "camembert"

    vocab_size: int = 32005


@dataclass(frozen=True)
class DistilBertConfig(PostLNConfig):
    """DistilBERT (Sanh et al. 2019); models/distilbert.py. Defaults are DistilBERT-base uncased."""

    kind: ClassVar[str] = "distilbert"

    num_hidden_layers: int = 6
    seq_classif_dropout: float = 0.2
    """Dropout in the head for labels of texts."""
    qa_dropout: float = 0.1
    """Dropout in the head for answers."""


@dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """ELECTRA (Clark et al. 2020); models/electra.py. Defaults are the discriminator of ELECTRA-small."""

    kind: ClassVar[str] = "electra"

    embedding_size: int = 128
    """Width of the embeddings; where it is not hidden_size, a dense layer makes the one of the other."""
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    classifier_dropout: float | None = None
    """Dropout in the head of a task; None: hidden_dropout_prob."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.embedding_size >= 1,
            f"model.embedding_size is {self.embedding_size}; it must be at least 1",
        )

"""Explanations: attributions that add up, attention maps that are the model's, a page that escapes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bert_jax.analysis import explain as explaining
from bert_jax.analysis import explanation_page
from bert_jax.analysis.attributions import integrated_gradients
from bert_jax.analysis.explain import explain
from bert_jax.cli import main as cli
from bert_jax.config import BertConfig
from bert_jax.inference.fill_mask import fill_mask
from bert_jax.interop.load import load_model
from bert_jax.objectives import mlm
from bert_jax.tasks import TASKS
from bert_jax.training.network import Network, init_params, modules

KINDS = ["mlm_nsp", "mlm", *(task.Config.kind for task in TASKS)]
MASKED = ("mlm_nsp", "mlm")
OF_PAIRS = ("question_answering", "reranking", "embedding", "late_interaction")


def test_a_polynomial_is_shared_out_exactly():
    """f(x) = x0^3 + 2 x0 x1: between (1, -1) and (3, 2) by hand; two points are exact for degree 3."""

    def f(x_SxD: jax.Array) -> jax.Array:
        return x_SxD[0, 0] ** 3 + 2 * x_SxD[0, 0] * x_SxD[1, 0]

    start, end = jnp.array([[1.0], [-1.0]]), jnp.array([[3.0], [2.0]])
    found = integrated_gradients(f, end, start, steps=2)
    # 2 * mean of 3 x0^2 + 2 x1 on the way = 26 + 2; 3 * mean of 2 x0 on the way = 12
    np.testing.assert_allclose(found, [28.0, 12.0], rtol=1e-6)
    assert float(found.sum()) == pytest.approx(float(f(end) - f(start)), rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_attributions_add_up(kind: str, folder_of):
    """To the difference from the empty text; special tokens add nothing."""
    text = "the value of [MASK]" if kind in MASKED else "the value of a name"
    pair = "an object has a name" if kind in OF_PAIRS else None
    fine = explain(folder_of(kind), text, pair=pair)
    difference = abs(fine.output - fine.baseline)
    assert difference > 1e-3
    assert fine.convergence_delta < 1e-3 * difference + 1e-5
    by_token = dict(zip(fine.tokens, fine.attributions, strict=True))
    assert by_token["[CLS]"] == by_token["[SEP]"] == 0
    assert np.shape(fine.attentions) == (2, 4, len(fine.tokens), len(fine.tokens))
    np.testing.assert_allclose(np.sum(fine.attentions, axis=-1), 1, atol=1e-5)


@pytest.mark.long
def test_more_steps_add_up_better(folder_of):
    found = [explain(folder_of("regression"), "the value", steps=steps) for steps in (1, 4, 64)]
    deltas = [explanation.convergence_delta for explanation in found]
    assert deltas == sorted(deltas, reverse=True)


def test_attention_maps_are_those_of_transformers(folder_of):
    folder = folder_of("classification")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    found = explain(folder, "the value of a name")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer("the value of a name", return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**encoded, output_attentions=True).attentions
    assert np.abs(np.array(found.attentions) - torch.cat(expected).numpy()).max() <= 2e-5


def test_padding_is_not_looked_at():
    model = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    network = Network(model, mlm, mlm.Config())
    batch = {
        "token_ids": jnp.arange(6)[None],
        "segment_ids": jnp.array([[1, 1, 1, 1, 0, 0]]),
        "position_ids": jnp.arange(6)[None],
        "token_type_ids": jnp.zeros((1, 6), int),
    }
    params = init_params(network, jax.random.key(0))
    maps = jax.jit(lambda: modules(network, params).encoder.attention_maps(batch))()
    assert (np.asarray(maps)[:, :, :4, 4:] == 0).all()


def test_attributions_are_those_of_pytorch(folder_of):
    """The same integral with autograd, at the same points."""
    folder, text, steps = folder_of("classification"), "the value of a name", 8
    found = explain(folder, text, label="B-PER", steps=steps)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    ids = encoded.pop("input_ids")
    table = theirs.get_input_embeddings().weight.detach()
    end = table[ids]
    empty = torch.tensor([[token not in ("[CLS]", "[SEP]") for token in found.tokens]])
    start = torch.where(empty[..., None], table[0], end)
    total = torch.zeros_like(end)
    for point, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        x = (start + (point + 1) / 2 * (end - start)).float().requires_grad_()
        out = theirs(inputs_embeds=x, **encoded).logits.log_softmax(dim=-1)[0, 2]
        total += weight / 2 * torch.autograd.grad(out, x)[0]
    expected = ((end - start) * total).sum(dim=-1)[0].numpy()
    np.testing.assert_allclose(found.attributions, expected, atol=1e-4)


@pytest.mark.long
def test_a_label_may_be_asked_for(folder_of):
    asked = [explain(folder_of("classification"), "a name", label=label) for label in ("O", "<b>", "B-PER")]
    assert sum(np.exp(found.output) for found in asked) == pytest.approx(1, abs=1e-5)
    several = explain(folder_of("multi_label"), "a name", label="<b>")
    assert several.target == "log-probability of <b>"
    word = explain(folder_of("token_classification"), "Ada wrote", label="B-PER")
    assert word.target.startswith("log-probability of B-PER for ")
    mask = explain(folder_of("mlm_nsp"), "the [MASK]", label="[UNK]")
    assert mask.target == "log-probability of [UNK]"


def test_the_page_escapes_what_it_shows(folder_of):
    """The text is in it as text, and the data cannot end their script."""
    found = explain(folder_of("classification"), "</script><script>alert(1)</script>", label="<b>")
    text = explanation_page.explanation_page(found)
    assert text.count("<script") == text.count("</script>") == 2
    assert "log-probability of &lt;b&gt;" in text
    data = json.loads(text.split("id=data>")[1].split("</script>")[0])
    assert data["tokens"] == found.tokens
    assert "http" not in text


def test_the_command(folder_of, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = ["--html", str(tmp_path / "why.html"), "--json", str(tmp_path / "why.json")]
    assert cli.run(["explain", str(folder_of("regression")), "the value", *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("the number: ")
    assert lines[-3].startswith("the attributions sum to the difference; convergence delta ")
    written = json.loads((tmp_path / "why.json").read_text())
    fields = {field.name for field in dataclasses.fields(explaining.Explanation)}
    assert written.keys() == fields | {"convergence_delta"}
    assert len(written["tokens"]) == len(written["attributions"])
    found = explain(folder_of("regression"), "the value").attentions
    np.testing.assert_allclose(written["attentions"], found, atol=5e-5)
    assert max(len(str(p)) for p in np.ravel(written["attentions"]).tolist()) <= len("0.1234")
    assert (tmp_path / "why.html").read_text().startswith("<!doctype html>")


def test_a_page_does_not_hold_millions_of_numbers(folder_of, monkeypatch: pytest.MonkeyPatch):
    found = explain(folder_of("classification"), "the value of a name")
    monkeypatch.setattr(explanation_page, "MAX_NUMBERS", found.attentions.size - 1)
    text = explanation_page.explanation_page(found)
    assert f"are {found.attentions.size:,} numbers, too many for a page: --json FILE writes them" in text
    assert "<script" not in text


def test_labels_that_say_nothing_are_explained_where_there_are_no_others(folder_of):
    found = explain(folder_of("token_classification", labels=("O",)), "Ada wrote")
    assert found.prediction == "Ada/O wrote/O"
    assert found.target == "log-probability of O for Ada"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_half_a_surrogate_pair_of_the_command_line_is_mended(kind: str, folder_of):
    """Python makes such of bytes that are not UTF-8."""
    text, pair = "caf\udce9 [MASK]", "\udce9 name"
    with_pair = kind in (*OF_PAIRS, "classification")
    found = explain(folder_of(kind), text, pair=pair if with_pair else None, steps=1)
    assert "\udce9" not in explaining.to_json(found)
    if kind in MASKED:
        assert len(fill_mask(folder_of(kind), text)) == 1


def test_a_model_for_pairs_asks_for_the_second_text(folder_of, monkeypatch: pytest.MonkeyPatch):
    loaded = load_model(folder_of("classification"))
    settings = dataclasses.replace(loaded.network.settings, text="question1", pair="question2")
    network = loaded.network._replace(settings=settings)
    monkeypatch.setattr(explaining, "load_model", lambda folder: loaded._replace(network=network))
    with pytest.raises(ValueError, match="trained on pairs: give 'question2' with --pair"):
        explain(Path("folder"), "how ?")
    assert explain(Path("folder"), "how ?", pair="how so ?", steps=1).tokens.count("[SEP]") == 2


@pytest.mark.parametrize(
    ("kind", "text", "more", "message"),
    [
        ("classification", " ", {}, "the text is empty"),
        ("classification", "a name", {"label": "C"}, "no label 'C'; there are O, <b>, B-PER"),
        ("classification", "name " * 100, {}, "the text is too long: its end would be cut off"),
        ("mlm_nsp", "a name", {}, r"has no \[MASK\]"),
        ("mlm_nsp", "a [MASK]", {"label": "nosuchpiece"}, "no piece of the vocabulary"),
        ("mlm_nsp", "[MASK] " * 100, {}, "the model takes 64"),
        ("question_answering", "what ?", {}, "with --pair"),
        ("question_answering", "what ?", {"pair": "a name " * 99}, "context is longer than the 64 tokens"),
        ("regression", "a name", {"label": "C"}, "no label 'C'; there are none"),
        ("question_answering", "what ?", {"pair": " "}, "the text of --pair is empty"),
        ("question_answering", "what " * 20, {"pair": "a name"}, "the question is too long"),
    ],
)
def test_what_cannot_be_explained_is_told(kind: str, text: str, more: dict, message: str, folder_of):
    with pytest.raises(ValueError, match=message):
        explain(folder_of(kind), text, **more)

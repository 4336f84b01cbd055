"""What do pairs of neighbouring passages teach a small encoder to find? Several seeds, a table.

    python -m tests.benchmarks.retrieval --out runs/retrieval [--seeds 0 1 2] [--steps 600] [--pairs 10000]

The encoder is that of configs/mini.py, pretrained on the shared corpus with masked tokens or with RetroMAE.
It is fine-tuned for embeddings on neighbouring passages of its documents, or on passages alone under two
dropouts (SimCSE), and has to find the neighbour of each passage of documents that neither training saw.
all-MiniLM-L6-v2, which has learned from a billion pairs, is the ceiling. Runs that are there already are not
made again. One run a core, side by side: quality is compared here, not speed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from tests.benchmarks.cores import MINILM, ROOT, bert_jax, each_on_a_core, parser_of, spread

MINI = "configs/mini.py"
HELD_OUT = ("0.02", "0")
"""Share of the documents, and the seed that decides which: those of configs/mini.py, for its rows."""
WORDS = 24
"""Of a passage at least: with up to twice as many it just fits the encoder's 64 tokens."""
ALIKE = ("--data.masking.rate", "0.3", "--data.masking.max-predictions", "20")
RETROMAE = """from bert_jax.config import Config, RetroMaeConfig, delta, load_recipe

def get_config() -> Config:
    return delta(load_recipe({mini!r}), objective=RetroMaeConfig())
"""
PRETRAINED = ("masked tokens", "RetroMAE")
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "masked tokens, then neighbours": ("masked tokens", ()),
    "RetroMAE, then neighbours": ("RetroMAE", ("--task.pooling", "cls")),
    "masked tokens, then SimCSE": ("masked tokens", ("--task.dropout", "0.1")),
    "random weights, then neighbours": ("masked tokens", ("--init.no-weights",)),
}
"""What it was pretrained with, and flags of the fine-tuning."""
METRICS = ("ndcg@10", "mrr@10", "recall@100")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of a pretraining")
    parser.add_argument("--pairs", type=int, default=10_000, help="to learn from, for one epoch")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "retromae.py").write_text(RETROMAE.format(mini=str(ROOT / MINI)))
    if not (args.out / "data").exists():
        bert_jax("prepare", MINI, *source(args))
    if not (args.out / "held-out").exists():
        write_pairs(args)

    # Seed by seed, so that a table of fewer seeds is there early.
    keys = [(name, seed) for seed in args.seeds for name in PRETRAINED]
    each_on_a_core(keys, lambda key, core: pretrain(args, *key, core))
    keys = [(name, seed) for seed in args.seeds for name in (*PRETRAINED, *VARIANTS)]
    found = each_on_a_core(keys, lambda key, core: judged(args, *key, core))
    count = len(lines_of(args.out / "held-out/queries.jsonl"))
    print(f"the neighbour among {count:,}, in percent\n")
    print(f"| | {' | '.join(METRICS)} |")
    print("|---" * (len(METRICS) + 1) + "|")
    for name in (*PRETRAINED, *VARIANTS):
        of_seeds = [found[name, seed] for seed in args.seeds]
        print(
            f"| {name} | {' | '.join(spread([100 * m[metric] for m in of_seeds], 1) for metric in METRICS)} |"
        )
    ceiling = score(args, MINILM, args.out / "minilm.json")
    print(f"| all-MiniLM-L6-v2 | {' | '.join(f'{100 * ceiling[metric]:.1f}' for metric in METRICS)} |")


def source(args: argparse.Namespace) -> tuple[str, ...]:
    return "--data.source", args.corpus, "--data.dir", str(args.out / "data"), *ALIKE


def write_pairs(args: argparse.Namespace) -> None:
    """train.jsonl, train.txt with each of its texts, and held-out, as BEIR has it."""
    pairs, held_out = args.out / "pairs", args.out / "held-out.unfinished"
    shutil.rmtree(pairs, ignore_errors=True)
    shutil.rmtree(held_out, ignore_errors=True)
    fraction, seed = HELD_OUT
    where = ("--out", str(pairs), "--validation-fraction", fraction, "--seed", seed)
    bert_jax("make-pairs", args.corpus, "--words", str(WORDS), *where)
    lines = of_all_genres(pairs / "train.jsonl", args.pairs)
    (args.out / "train.jsonl").write_text("\n".join(lines) + "\n")
    texts = [text for line in lines for text in json.loads(line).values()]
    (args.out / "train.txt").write_text("".join(f"{text}\n" for text in texts))

    write_collection(held_out, [json.loads(line) for line in lines_of(pairs / "validation.jsonl")])
    held_out.rename(args.out / "held-out")


def lines_of(file: Path) -> list[str]:
    """Without their ends. Other characters that end lines elsewhere may be in a text."""
    return file.read_text().removesuffix("\n").split("\n")


def of_all_genres(file: Path, count: int) -> list[str]:
    """So many lines, or all, evenly spread: the corpus has a genre after the other."""
    lines = lines_of(file)
    return lines[:: max(1, len(lines) // count)][:count]


def write_collection(folder: Path, pairs: list[dict[str, str]]) -> None:
    """As BEIR has it: the positive of each pair, to be found by its anchor."""
    folder.mkdir()
    for name, column in ("queries", "anchor"), ("corpus", "positive"):
        rows = (json.dumps({"_id": str(n), "text": pair[column]}) for n, pair in enumerate(pairs))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    qrels = (f"{n}\t{n}\t1" for n in range(len(pairs)))
    (folder / "qrels.tsv").write_text("\n".join(("query-id\tcorpus-id\tscore", *qrels)) + "\n")


def pretrain(args: argparse.Namespace, name: str, seed: int, core: int) -> None:
    place = pretrained(args, name, seed)
    if not (place / "done").exists():
        how = ["--train.steps", str(args.steps), "--train.seed", str(seed)]
        how += ["--train.eval-every", str(args.steps), "--checkpoint.every", str(args.steps)]
        recipe = MINI if name == PRETRAINED[0] else str(args.out / "retromae.py")
        bert_jax("pretrain", recipe, *source(args), *how, "--workdir", str(place / "run"), core=core)
        (place / "done").touch()


def pretrained(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.out / f"{name.replace(' ', '-')}-{args.steps}-steps-{seed}"


def judged(args: argparse.Namespace, name: str, seed: int, core: int) -> dict[str, float]:
    """As it was pretrained, or fine-tuned."""
    if name in PRETRAINED:
        place = pretrained(args, name, seed)
        return score(args, place / "run", place / "found.json", core)
    begun_as, flags = VARIANTS[name]
    place = args.out / f"{name.replace(', ', '-').replace(' ', '-')}-{args.pairs}-pairs-{seed}"
    if not (place / "found.json").exists():
        train = "train.txt" if "SimCSE" in name else "train.jsonl"
        how = ["--task.train", f"{args.out}/{train}"]
        how += ["--task.validation", f"{args.out}/pairs/validation.jsonl"]
        how += ["--task.sequence-length", "64", "--train.global-batch-size", "64"]
        how += ["--optimizer.learning-rate", "5e-4", "--train.seed", str(seed), *flags]
        how += ["--init.source", str(pretrained(args, begun_as, seed) / "run")]
        how += ["--workdir", str(place / "run")]
        bert_jax("finetune", "configs/finetune_embedding.py", *how, core=core)
    return score(args, place / "run", place / "found.json", core)


def score(args: argparse.Namespace, model: Path, file: Path, core: int | None = None) -> dict[str, float]:
    """What evaluate-retrieval says of the held-out passages."""
    if not file.exists():
        said = bert_jax("evaluate-retrieval", str(model), "--files", f"{args.out}/held-out", core=core).said
        words = [line.split() for line in said.splitlines()]
        found = {line[0]: float(line[1]) for line in words if len(line) == 2 and line[0] in METRICS}
        file.write_text(json.dumps(found))
        print(f"{file.parent.name}: {found['mrr@10']:.3f}", file=sys.stderr, flush=True)
    return json.loads(file.read_text())


if __name__ == "__main__":
    main()

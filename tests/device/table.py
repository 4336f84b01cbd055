"""The results of `tests.device.run` as docs/results.md shows them: tables in Markdown, and the loss curve.

    python -m tests.device.table DIR [DIR ...] [--picture FILE.png]

Of several runs on one machine a later result stands for an earlier one. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.device.result import NO_TIME, Result


def read(folders: Sequence[Path]) -> list[Result]:
    """The results of all runs; exits where they are rehearsals or of several machines."""
    found: dict[tuple[str, ...], Result] = {}
    for folder in folders:
        file = folder / "results.jsonl"
        if not file.is_file():
            sys.exit(f"{folder} has no {file.name}: it is no folder of `python -m tests.device.run`")
        for result in map(json.loads, file.read_text().splitlines()):
            key = tuple(str(result.get(name)) for name in ("part", "what", "side"))
            if key not in found or result["ok"] is not None:
                found[key] = result
    machines = [result for result in found.values() if result["part"] == "machine"]
    if len(machines) != 1:
        sys.exit(f"the results are of {len(machines)} machines: {[machine['what'] for machine in machines]}")
    if machines[0].get("rehearsal"):
        sys.exit("this was a rehearsal: there is nothing that it has measured")
    return [
        line for line in found.values() if line.get("not run") != NO_TIME or not _is_elsewhere(line, found)
    ]


def _is_elsewhere(missed: Result, found: dict[tuple[str, ...], Result]) -> bool:
    """Whether another run had the time."""
    same = (line for line in found.values() if line["part"] == missed["part"] and line["ok"] is not None)
    return any(line["what"] == missed["what"] or missed["part"] != "speed" for line in same)


def markdown(results: Sequence[Result]) -> Iterator[str]:
    (machine,) = (result for result in results if result["part"] == "machine")
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"{machine['what']}, Python {machine['python']}, {versions}."
    yield from (
        "",
        "| step, bf16 | rows | side | ms | MFU | tokens/s | GB | PyTorch / ours |",
        "|" + "---|" * 8,
    )
    for line in results:
        if line["part"] == "speed" and "ms" in line:
            mfu = f"{line['mfu']:.1%}" if "mfu" in line else ""
            gb = f"{line['gb']:.1f}" if "gb" in line else ""
            times = f"{line['times_ours']:.2f}" if "times_ours" in line else ""
            side = f"ours, {line['kernel']}" if line["side"] == "ours" else line["side"]
            yield (
                f"| {line['what']} | {line['batch']} | {side} | {line['ms']:.1f} ({line['low']:.1f} to "
                f"{line['high']:.1f}) | {mfu} | {line['tokens_per_second']:,.0f} | {gb} | {times} |"
            )
    yield from ("", "| against a CPU's float32 | largest difference | allowed | |", "|" + "---|" * 4)
    for line in results:
        right = "right" if line["ok"] else "**wrong**"
        if line["part"] == "kernels" and "output" in line:
            error = f"output {line['output']:.1e}, gradients {line['gradients']:.1e}"
            yield f"| {line['what']} | {error} | {line['tolerance']:.0e} | {right} |"
        if line["part"] == "steps" and "difference" in line:
            what = f"losses of {line['what']}, {line['kernel']}"
            yield f"| {what} | {line['difference']:.1e} | {line['tolerance']:.0e} | {right} |"
    yield ""
    for line in results:
        if "same bits" in line:
            bits = (
                "the same bits" if line["same bits"] else f"a difference of {line['largest difference']:.1e}"
            )
            yield (
                f"- Killed at step {line['killed at step']}, resumed from step {line['resumed from step']}: "
                f"{bits} at the end (`{line['xla_flags']}`)."
            )
        if "unigram_loss" in line:
            yield (
                f"- {line['what']}: {line['steps']:,} steps, {line['tokens']:,} tokens in "
                f"{line['minutes']:.1f} minutes; held-out MLM loss {line['held-out mlm_loss']:.3f}, where "
                f"frequencies alone give {line['unigram_loss']:.2f}."
            )
    for line in results:
        if line["ok"] is False:
            yield f"- **Failed**: {line['part']}, {line['what']}: {line.get('error', 'a difference, above')}"
        if line["ok"] is None:
            yield f"- Not run: {line['part']}, {line['what']}: {line['not run']}."


def draw(curve: Path, picture: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    for split in ("train", "validation"):
        points = [(line["step"], line["mlm_loss"]) for line in lines if line["split"] == split]
        pyplot.plot(*zip(*points, strict=True), label=split)
    pyplot.xlabel("step")
    pyplot.ylabel("MLM loss, nats")
    pyplot.legend()
    pyplot.savefig(picture, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, help="of the loss curve")
    arguments = parser.parse_args()
    for line in markdown(read(arguments.folders)):
        print(line)
    if arguments.picture is not None:
        curves = [folder / "pretraining.jsonl" for folder in arguments.folders]
        draw(next(curve for curve in curves if curve.is_file()), arguments.picture)


if __name__ == "__main__":
    main()

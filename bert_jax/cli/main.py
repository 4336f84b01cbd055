"""The command line: which verb, with which config and flags; errors in one line. The only argument parsing.

Exit status: 0 done; 1 `compare` found a difference; 2 something the person can mend, reported in one line; 75
stopped by a signal and saved, so that the same command resumes. Any other fault keeps its traceback and ends
with 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import tyro

from bert_jax.cli.data_verbs import Prepare
from bert_jax.cli.model_verbs import Embed
from bert_jax.cli.phases import chained
from bert_jax.cli.run_verbs import Report
from bert_jax.cli.training_verbs import Finetune, Glue, Plan, Pretrain
from bert_jax.cli.verbs import VERBS, ShowConfig
from bert_jax.config import Config
from bert_jax.config.recipe import load_phases, load_recipe
from bert_jax.config.sections import FOLLOWS_IN_FINETUNING
from bert_jax.parallel.exit_status import BROKEN_PIPE, KEYBOARD_INTERRUPT, OK, USER_ERROR
from data_pipeline.errors import UserError
from data_pipeline.storage import refusal, url_of


def main() -> None:
    """The console script `bert-jax`."""
    # Half of TensorFlow's import is Keras 3, which nothing here uses; the older one is not even there.
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    # Orbax prints the traceback of a failed write in each of its threads; it comes as an exception too.
    for package in ("absl", "asyncio"):
        logging.getLogger(package).setLevel(logging.CRITICAL)
    sys.unraisablehook = _print_unless_late
    for package in ("bert_jax", "data_pipeline"):
        logging.getLogger(package).setLevel(logging.INFO)
    try:
        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        print("bert-jax: interrupted", file=sys.stderr)
        status = KEYBOARD_INTERRUPT
    except BrokenPipeError:  # whoever reads the output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        status = BROKEN_PIPE
    except (OSError, UserError) as error:  # what the operating system refuses is the person's too
        print(f"bert-jax: {' '.join(str(error).split())}", file=sys.stderr)
        status = USER_ERROR
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs one command line; returns its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return OK if arguments else USER_ERROR
    verb, *rest = arguments
    if verb not in VERBS:
        raise UserError(f"there is no verb {verb!r}; there are {', '.join(VERBS)}")
    kind = VERBS[verb]
    prog = f"bert-jax {verb}"
    if not _takes_config(kind):
        command = _parse(kind, tyro.MISSING_NONPROP, prog, rest)
        return OK if command is None else _execute(command)
    phases = _phases(kind, verb, rest)
    commands = {}
    for name, config in phases:
        commands[name] = _parse(kind, _default(kind, config), f"{prog} CONFIG", rest)
        if commands[name] is None:  # help was asked for
            return OK
    for command in commands.values():
        check_flags(command, rest, phases=len(commands))
        if kind is not ShowConfig:
            _check_task(verb, command.config, tunes=kind in (Finetune, Glue))
    for command in chained(commands):
        if status := _execute(command):
            return status
    return OK


def _phases(kind: type, verb: str, arguments: list[str]) -> list[tuple[str, Config]]:
    """The configs of the file that is the first argument, which is taken off, by phase."""
    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            return [("", Config())]
        raise UserError(f"give a config file after {verb!r}, for example configs/demo.py")
    file = arguments.pop(0)
    phases = load_phases(file) if kind in (Prepare, Pretrain) else {"": load_recipe(file)}
    if kind is Plan:  # layer by layer a compilation takes minutes; a flag may still ask for it
        scanned = dataclasses.replace(phases[""].model, scan_unroll=1)
        phases = {"": dataclasses.replace(phases[""], model=scanned)}
    return list(phases.items())


def _default(kind: type, config: Config) -> Any:
    """A command without its flags."""
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
    return kind(**dict.fromkeys(required, tyro.MISSING_NONPROP) | {"config": config})


def _execute(command: Any) -> int:
    with _one_line(), _folders(command) as here:
        return here()


FOLDERS = ("workdir", "directory", "one", "other", "compare", "against", "out")
"""Arguments of verbs that may be in a bucket."""


@contextlib.contextmanager
def _folders(command: Any) -> Iterator[Any]:
    """The command with folders of this machine in place of those in buckets."""
    names = [name for name in FOLDERS if (name, type(command)) != ("out", Embed)]  # which is a file
    given = {name: getattr(command, name) for name in names if getattr(command, name, None)}
    if not any(url_of(folder) for value in given.values() for folder in _as_tuple(value)):
        yield command
        return
    from bert_jax.workdir.bucket import new_folder, opened

    with contextlib.ExitStack() as stack:
        local: dict[str, Any] = {}
        for name, value in given.items():
            enter = opened
            if name == "out":
                grows = isinstance(command, Report) or command.every_checkpoint
                enter = functools.partial(new_folder, grows=grows)
            folders = tuple(stack.enter_context(enter(folder)) for folder in _as_tuple(value))
            local[name] = folders if isinstance(value, tuple) else folders[0]
        yield dataclasses.replace(command, **local)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Messages with the URLs that were given, not the copies that stand for them; a store's in a line."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_rename)
    try:
        yield
    except Exception as error:
        said = str(error) if isinstance(error, OSError | UserError) else ""
        reason = refusal(error) or _named(said)
        if reason == said:
            raise
        raise UserError(reason) from error
    finally:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(_rename)


def _rename(record: logging.LogRecord) -> bool:
    record.msg, record.args = _named(record.getMessage()), ()
    return True


def _named(text: str) -> str:
    """Of URLs nothing was heard unless somebody has imported what copies them."""
    bucket = sys.modules.get("bert_jax.workdir.bucket")
    return text if bucket is None else bucket.named(text)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def check_flags(command: Any, arguments: Sequence[str], *, phases: int = 1) -> None:
    """Raises UserError for a flag that something else decides, even where its value is the default."""
    config: Config = command.config
    decided = dict(FOLLOWS_IN_FINETUNING) if config.task is not None else {}
    if config.train.steps_from_budget:
        decided["train.steps"] = f"train.budget {config.train.budget!r}"
    if config.init.vocabulary != "keep":
        decided["model.vocab_size"] = f"the dataset, with init.vocabulary {config.init.vocabulary}"
    if phases > 1:
        decided["train.stop_at"] = "the phases, of which each runs to its end; name one as in CONFIG:PHASE"
    if getattr(command, "seeds", ()):
        decided["train.seed"] = f"--seeds {' '.join(map(str, command.seeds))}"
    for argument in arguments:
        flag = argument.partition("=")[0]
        field = flag.removeprefix("--").replace("-", "_")
        for name, source in decided.items():
            if field == name or field.startswith(f"{name}."):
                raise UserError(f"{flag} cannot be given: {field} follows from {source}")


def _check_task(verb: str, config: Config, *, tunes: bool) -> None:
    if tunes and config.task is None:
        raise UserError(f"{verb} wants a config for a task, such as configs/finetune_classification.py")
    if not tunes and config.task is not None:
        raise UserError(
            f"{verb} is for pretraining; this config is for {config.task.kind}: use bert-jax finetune"
        )


def _takes_config(kind: type) -> bool:
    return "config" in {field.name for field in dataclasses.fields(kind)}


def _usage() -> str:
    lines = ["usage: bert-jax VERB [CONFIG] [--flags]", ""]
    for verb, kind in VERBS.items():
        name = f"{verb} CONFIG" if _takes_config(kind) else verb
        lines.append(f"  {name:22s} {kind.__doc__}")
    lines += ["", "bert-jax VERB --help shows its flags. Every field of a config is one: --train.steps 1000"]
    return "\n".join(lines)


_FLAGS = (tyro.conf.AvoidSubcommands,)
"""A section that may be absent, as `task`, has the fields of the one that the config file has."""


def _parse(kind: type, default: Any, prog: str, arguments: list[str]) -> Any:
    """The command that the arguments ask for, or None where they asked for help, which is then printed.

    Raises:
      UserError: what tyro would say in a frame, in one line.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(kind, default=default, args=arguments, prog=prog, config=_FLAGS)
    except SystemExit as error:
        if not error.code:
            return None
        complaint = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        os.environ["COLUMNS"] = "10000"  # once more, so wide that no word is broken over lines
        with contextlib.redirect_stderr(complaint), contextlib.suppress(SystemExit):
            tyro.cli(kind, default=default, args=arguments, prog=prog, config=_FLAGS)
        complaint.seek(0)
        lines = [line.strip("│| \n") for line in complaint]
        rules = [i for i, line in enumerate(lines) if set(line) == {"─"} or set(line) == {"-"}]
        first = 2 if 1 in rules else 1  # after the title, which has a rule of its own without Unicode
        message = lines[first : next((i for i in rules if i >= first), None)] if rules else lines
        if message[0].startswith("Missing"):  # without the help text of what is missing
            named = [line for line in message[1:] if line.startswith("--") or line.split()[0].isupper()]
            message = [message[0], ", ".join(named).replace(" (required)", "")]
        if "Perhaps you meant:" in lines:
            message.append(f"(perhaps {lines[lines.index('Perhaps you meant:') + 1].split()[0]}?)")
        raise UserError(re.sub(r"^Error parsing config[\w.]*: ", "", " ".join(message))) from None


def _print_unless_late(unraisable: sys.UnraisableHookArgs) -> None:
    """Prints what cannot be raised as Python does, but for one complaint.

    Where a write fails, TensorStore's threads tell the event loop that asked, which may be gone by then.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)

"""The `meditron` command: finds the verb, reads the recipe, runs it, and turns errors into one sentence.

Only the standard library and the error classes are imported here, so that `meditron --help` is quick.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from meditron.errors import EXIT_CODES, ConfigError, MeditronError

if TYPE_CHECKING:
    from meditron.config import Recipe


class Verb(NamedTuple):
    """A command: where its `main(recipe)` is, and which sections of the recipe its help shows."""

    entry: str
    sections: tuple[str, ...]
    help: str
    actions: Mapping[str, str] = MappingProxyType({})
    """Second words, as in `meditron launch status`, and where the function of each is."""
    switches: tuple[tuple[str, str], ...] = ()
    """Options without a value, each with the setting it turns on, as in `meditron curate --audit`."""
    short: tuple[tuple[str, str], ...] = ()
    """Options with a value, each with the setting it stands for, as in `meditron curate --executor ray`."""
    words: str = ""
    """Setting, a list, that further words without `--` are the value of, as in `meditron compare A B`."""


def _functions(module: str, *words: str) -> dict[str, str]:
    return {word: f"{module}:{word.replace('-', '_')}" for word in words}


VERBS: dict[str, Verb] = {
    "curate": Verb(
        "data_curation.curate:main",
        ("curate",),
        "sources to a corpus; curate plan (the mixture), curate train-classifier",
        _functions("data_curation.actions", "plan", "train-classifier"),
        (("--audit", "curate.clean.audit"),),
        (("--executor", "curate.executor"),),
    ),
    "tokenize": Verb("data_curation.tokenize:main", ("tokenize",), "turn a corpus into Megatron shards"),
    "import": Verb("meditron.models.importing:main", ("model",), "GGUF or hub model to a clean base folder"),
    "pretrain": Verb("pretrain.main:main", ("model", "pretrain"), "continue training a base model on shards"),
    "export": Verb("meditron.models.exporting:main", ("model", "export"), "checkpoint to a model folder"),
    "finetune": Verb("finetune.main:main", ("finetune",), "instruction tuning of a Hugging Face folder"),
    "evaluate": Verb("evaluation.main:main", ("evaluate",), "questions and perplexity, models side by side"),
    "report": Verb(
        "evaluation.report.main:main", ("report",), "one HTML page about what a work folder holds"
    ),
    "generate": Verb("meditron.generating:main", ("generate",), "try a model: a prompt, or a conversation"),
    "run": Verb("launch.run:main", ("run",), "all stages here, from the first unfinished one"),
    "launch": Verb(
        "launch.slurm:main",
        ("launch",),
        "the stages as SLURM jobs; launch status, logs, cancel, resume",
        _functions("launch.manage", "status", "logs", "cancel", "resume"),
    ),
    "checkpoint": Verb(
        "meditron.checkpoint_tools:main",
        ("checkpoints",),
        "checkpoint list, verify (is it intact), convert (to another engine, or to Hugging Face)",
        _functions("meditron.checkpoint_tools", "list", "verify") | {"convert": "pretrain.convert:main"},
        short=(("--to", "checkpoints.to"), ("--output", "checkpoints.output")),
        words="checkpoints.paths",
    ),
    "compare": Verb(
        "meditron.comparing:main",
        ("compare",),
        "two training runs: are their losses equal, and from which step not",
        words="compare.runs",
    ),
    "doctor": Verb(
        "launch.doctor:main",
        ("model", "pretrain", "launch", "doctor"),
        "what this machine has, and a recipe needs",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        the exit code; `meditron.errors.EXIT_CODES` documents each.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        from meditron import __version__

        print(f"meditron {__version__}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except MeditronError as error:
        if "--debug" in arguments:
            raise
        print(f"meditron: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("meditron: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `meditron ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(name: str, arguments: Sequence[str]) -> int:
    verb = VERBS.get(name)
    if verb is None:
        from meditron.config.check import suggest

        raise ConfigError(f"unknown command {name!r}{suggest(name, VERBS)}")
    if arguments and arguments[0] in verb.actions:
        action, *arguments = arguments
        verb = verb._replace(entry=verb.actions[action])
    elif arguments and verb.actions and not verb.words:
        _check_first_word(name, verb, arguments[0])
    arguments = name_words(verb, arguments)
    from meditron.config.loading import build_parser, dump_recipe, parse_recipe

    parser = build_parser(f"meditron {name}", verb.help, verb.sections)
    recipe, flags = parse_recipe(parser, arguments)
    if flags.print_config:
        print(dump_recipe(recipe), end="")
        return 0
    return _entry(verb)(recipe) or 0


def _check_first_word(name: str, verb: Verb, word: str) -> None:
    if not word.startswith("-") and not os.path.exists(word):
        from meditron.config.check import suggest

        raise ConfigError(f"{name}: {word!r} is neither a file nor an action{suggest(word, verb.actions)}")


def name_words(verb: Verb, arguments: Sequence[str]) -> list[str]:
    """Arguments with each switch as its setting, and words before the first option as the value of theirs.

    Those words are recipes, as in `meditron launch recipe.yaml`, where the verb has no other use for them.
    """
    arguments = [word for given in arguments for word in _spelled_out(given, verb)]
    words = [*takewhile(lambda word: not word.startswith("-"), arguments)]
    if words and verb.words:
        named = [f"--{verb.words}", json.dumps(words)]
    else:
        named = [part for word in words for part in ("--config", word)]
    return [*named, *arguments[len(words) :]]


def _spelled_out(argument: str, verb: Verb) -> list[str]:
    switches, short = dict(verb.switches), dict(verb.short)
    if argument in switches:
        return [f"--{switches[argument]}", "true"]
    name, equals, value = argument.partition("=")
    return [f"--{short[name]}{equals}{value}" if name in short else argument]


def _entry(verb: Verb) -> "Callable[[Recipe], int | None]":
    module, function = verb.entry.split(":")
    entry: Callable[[Recipe], int | None] = getattr(importlib.import_module(module), function)
    return entry


def _help() -> str:
    verbs = "\n".join(f"  {name:<10} {verb.help}" for name, verb in VERBS.items())
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
    return (
        "usage: meditron COMMAND [--config] RECIPE.yaml [--section.field VALUE ...]\n\n"
        "From raw medical literature to a medical language model, with its evidence.\n\n"
        f"commands:\n{verbs}\n\n"
        "Every command takes --print_config (the resolved recipe), --debug (tracebacks) and --help.\n\n"
        f"exit codes:\n{codes}"
    )

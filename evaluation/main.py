"""`meditron evaluate`: models on questions and held-out text, side by side."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meditron.config import EvaluateConfig, Recipe, TaskConfig
from meditron.config.loading import dump_recipe
from meditron.errors import ConfigError, InputError, ManifestError, QuarantineError
from meditron.files import atomic_dir, atomic_write_json, atomic_write_text, sha256_file
from meditron.manifest import MANIFEST, config_hash, read_manifest, write_manifest
from meditron.progress import console

if TYPE_CHECKING:
    from evaluation.adapter.lm import MeditronLM
    from evaluation.asking import Asked
    from evaluation.contamination import Contaminated
    from evaluation.model import Candidate, LoadedModel
    from evaluation.perplexity import HeldOut
    from evaluation.questions import Loaded
    from evaluation.team import Team

RESULTS = "results.json"
CACHE_VERSION = "1"
"""Part of every key of the answer cache; to be raised when the computation changes."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every model is asked."""

    recipe: Recipe
    """The recipe."""
    asked: "list[Asked]"
    """Tasks under their protocols."""
    held_out: "list[HeldOut]"
    """Documents to measure perplexity on."""
    inputs: dict[str, str]
    """Name of each input to its hash, the model's excepted."""
    licenses: dict[str, str]
    """Source to licence, of the held-out documents."""
    contaminated: "Contaminated | None" = None
    """Questions that curation found in its sources."""

    @property
    def config(self) -> EvaluateConfig:
        """The recipe's settings of evaluation."""
        return self.recipe.evaluate


def main(recipe: Recipe) -> int:
    """Evaluate each of a recipe's models, and print the results side by side.

    A model that has results from the same questions, texts and settings is left alone; a killed
    evaluation goes on with the answers it had.

    Returns:
        0, or the documented code of a process that failed.

    Raises:
        ConfigError: there is nothing to evaluate, or a setting is impossible.
        InputError: a model, question file or corpus is missing or not of its form.
        ManifestError: a model or the corpus does not match its manifest.
        QuarantineError: too many questions of a task cannot be used.
        DiskFullError: the disk is full; finished answers are kept.
    """
    from evaluation.model import check_folder

    config = recipe.evaluate
    if not config.models:
        raise ConfigError("evaluate.models: names no model; give at least one label and folder")
    for label, folder in config.models.items():
        check_folder(label, Path(folder))
    config.check_variants()
    if config.nproc > 1 and "WORLD_SIZE" not in os.environ:
        from meditron.processes import run_processes

        work = Path(f"{config.output}.cache")
        atomic_write_text(work / "launched.yaml", dump_recipe(recipe))
        arguments = ["evaluate", "--config", str(work / "launched.yaml")]
        return run_processes(arguments, config.nproc, work / "logs")
    _evaluate_all(recipe)
    return 0


def _evaluate_all(recipe: Recipe) -> None:
    from evaluation.model import candidates
    from evaluation.table import print_results
    from evaluation.team import join, leave

    plan, team = make_plan(recipe), join(recipe.evaluate.part, recipe.evaluate.parts)
    output, models = Path(str(plan.config.output)), candidates(plan.config)
    try:
        for one in models:
            evaluate(plan, one, output / one.label, team)
    finally:
        leave(team)
    if team.apart:
        part, parts = (plan.config.part or 0) + 1, plan.config.parts
        console().print(f"evaluate: part {part} of {parts} is answered; the rest is for a run without it")
    if team.leads:
        print_results(
            {
                one.label: json.loads((output / one.label / RESULTS).read_text(encoding="utf-8"))
                for one in models
            }
        )


def make_plan(recipe: Recipe) -> Plan:
    """Read everything that does not depend on the model."""
    config = recipe.evaluate
    inputs: dict[str, str] = {}
    asked = _build(recipe)
    for one in asked:
        inputs |= one.loaded.hashes
    held_out: list[HeldOut] = []
    licenses: dict[str, str] = {}
    if config.perplexity.enabled and _has_corpus(recipe):
        from evaluation.perplexity import read_held_out

        held_out, manifest = read_held_out(config.perplexity)
        inputs["corpus"], licenses = manifest.hash, dict(manifest.licenses)
    if not asked and not held_out:
        raise ConfigError(
            "evaluate.tasks: names no questions, and there is no corpus to measure perplexity on"
        )
    plan = Plan(recipe=recipe, asked=asked, held_out=held_out, inputs=inputs, licenses=licenses)
    return _with_contamination(plan)


def _with_contamination(plan: Plan) -> Plan:
    """The plan with curation's report, where one is named or lies at its usual place."""
    named = plan.config.contamination
    path = Path(named) if named else Path(str(plan.recipe.curate.output)) / "contamination.jsonl"
    if not plan.asked or not (named or path.is_file()):
        return plan
    from evaluation.contamination import read_contamination

    inputs = {**plan.inputs, "contamination.jsonl": sha256_file(path)} if path.is_file() else plan.inputs
    return replace(plan, contaminated=read_contamination(path), inputs=inputs)


def _has_corpus(recipe: Recipe) -> bool:
    """Whether there is a corpus, or should be one; a recipe without curation may go without."""
    corpus = recipe.evaluate.perplexity.corpus
    if Path(str(corpus)).exists() or recipe.curate.sources or corpus != recipe.curate.output:
        return True
    console().print(f"{corpus}: no corpus is there, so no perplexity is measured")
    return False


def _build(recipe: Recipe) -> "list[Asked]":
    if not recipe.evaluate.tasks:
        return []
    from evaluation.asking import build
    from evaluation.questions import load_questions
    from evaluation.results import bad_record, write_lines

    root = Path(recipe.data_root or ".")
    tasks: dict[str, tuple[TaskConfig, Loaded]] = {}
    for name, config in recipe.evaluate.tasks.items():
        tasks[name] = (config, load_questions(config, root))
    bad = [bad_record(name, one) for name, (_, loaded) in tasks.items() for one in loaded.bad]
    quarantine = Path(str(recipe.evaluate.output)) / "quarantine.jsonl"
    if bad or quarantine.exists():
        write_lines(quarantine, bad)
    for name, (_, loaded) in tasks.items():
        _check_bad(name, loaded, recipe.evaluate.max_bad_fraction, quarantine)
    return build(tasks, recipe.evaluate, recipe.seed)


def _check_bad(name: str, loaded: "Loaded", max_bad_fraction: float, quarantine: Path) -> None:
    bad, records = len(loaded.bad), loaded.records
    if not bad:
        return
    first = loaded.bad[0]
    said = f"evaluate.tasks.{name}: {bad:,} of {records:,} questions ({bad / records:.2%}) cannot be used"
    if bad > max_bad_fraction * records:
        raise QuarantineError(
            f"{said}, more than evaluate.max_bad_fraction = {max_bad_fraction:.2%}; the first is "
            f"{first.file} {first.record}: {first.reason}; all are listed in {quarantine}: mend or remove "
            "them, or raise the threshold"
        )
    console().print(f"{said}, see {quarantine}")


def evaluate(plan: Plan, one: "Candidate", output: Path, team: "Team") -> None:
    """Write the results of one model to `output`, unless they are there."""
    from evaluation.model import choose_device, choose_dtype, identify

    config = plan.config
    identity = identify(one.folder, one.settings)
    settings = _settings(plan, choose_dtype(config, choose_device(config.device)))
    inputs = {"model": identity, **plan.inputs}
    if team.agree((team.leads or team.apart) and _is_done(output, settings, inputs)):
        console().print(f"{output}: already evaluated with this model, these inputs and settings")
        return
    started = time.perf_counter()
    from evaluation.adapter.cache import AnswerCache
    from evaluation.adapter.lm import MeditronLM

    loaded = _load(one, identity, config)
    how = loaded.dtype if config.backend == "torch" else f"{loaded.dtype}-{config.backend}"
    how += "-own-code" if config.trust_remote_code else ""
    cache = Path(f"{config.output}.cache") / f"{identity[:16]}-{how}" / f"answers-{team.rank}.jsonl"
    answers = AnswerCache(cache, f"{CACHE_VERSION} {identity} {how}")
    lm = MeditronLM(loaded, answers, config.batch_tokens, one.label, config.generation.batch_size, team)
    samples, content = _measure(plan, lm)
    if not team.leads:
        return
    content["model"] = {
        "label": one.label,
        "path": str(one.folder),
        "identity": identity,
        "settings": dict(one.settings),
        "parameters": loaded.parameters,
    }
    content |= {"device": lm.device.type, "dtype": loaded.dtype, "max_length": loaded.max_length}
    content["seconds"] = round(time.perf_counter() - started, 3)
    _write(plan, output, content, samples, settings, inputs)


def _load(one: "Candidate", identity: str, config: EvaluateConfig) -> "LoadedModel":
    if config.backend == "vllm":
        from evaluation.adapter.vllm import load_engine

        return load_engine(one.label, one.folder, identity, config)
    from evaluation.model import load_model

    return load_model(one.label, one.folder, identity, config, one.settings)


def _measure(plan: Plan, lm: "MeditronLM") -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Samples by file name, and the sections `tasks` and `perplexity` of the results."""
    from evaluation.asking import ask
    from evaluation.perplexity import measure
    from evaluation.results import to_sample

    records = ask(lm, plan.asked) if plan.asked else {}
    samples = {
        one.key: [to_sample(record, one, plan.contaminated) for record in records[one.key]]
        for one in plan.asked
        if one.key in records
    }
    config, seed = plan.config.perplexity, plan.recipe.seed
    perplexity = measure(lm, plan.held_out, config, seed) if plan.held_out else []
    _say_what_is_missing(plan, lm, samples)
    counters = lm.counters
    answers = {"computed": counters.computed, "from_cache": counters.known, "cut": counters.cut}
    content = {"tasks": _entries(plan, lm, samples), "perplexity": perplexity, "answers": answers}
    return {f"samples-{key}.jsonl": own for key, own in samples.items()}, content


def _entries(
    plan: Plan, lm: "MeditronLM", samples: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """One entry for each task and protocol, over all seeds."""
    from evaluation.results import task_entry

    groups: dict[tuple[str, str], list[Asked]] = {}
    for one in plan.asked:
        if one.key in samples:
            groups.setdefault((one.name, one.protocol.name), []).append(one)
    return [
        task_entry(
            [(one, samples[one.key]) for one in group],
            sum(lm.seconds.get(one.key, 0.0) for one in group),
            lm.counters.cut_prompts,
            lm.tokenizer.chat_template,
        )
        for group in groups.values()
    ]


def _say_what_is_missing(plan: Plan, lm: "MeditronLM", samples: Mapping[str, list[dict[str, Any]]]) -> None:
    if any(one.key not in samples for one in plan.asked):
        console().print(
            f"{lm.label}: its tokenizer has no chat template, so the -chat protocols are left out"
        )
    if lm.counters.cut_prompts:
        console().print(
            f"{lm.label}: {len(lm.counters.cut_prompts):,} prompts are longer than its context of "
            f"{lm.max_length:,} tokens and lost their beginning"
        )


def _settings(plan: Plan, dtype: str) -> dict[str, Any]:
    """What, besides the inputs, decides the results."""
    from evaluation.protocols import perplexity_hash

    config, perplexity = plan.config, plan.config.perplexity
    measured = perplexity_hash(perplexity.window, perplexity.max_characters)
    return {
        "seed": plan.recipe.seed,
        "tasks": {name: asdict(task) for name, task in config.tasks.items()},
        "protocols": {one.key: one.protocol_hash for one in plan.asked},
        **({"perplexity_protocol": measured} if plan.held_out else {}),
        "perplexity": asdict(perplexity),
        "dtype": dtype,
        "backend": config.backend,
        **({"trust_remote_code": True} if config.trust_remote_code else {}),
        "max_length": config.max_length,
    }


def _is_done(output: Path, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether `output` holds these results; refuses to replace a folder of something else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / MANIFEST).is_file():
        raise InputError(f"{output}: exists and holds no results; remove it or set evaluate.output")
    try:
        manifest = read_manifest(output, kind="results", check_files="full")
    except ManifestError as error:
        console().print(f"{error} (evaluating again)")
        return False
    return manifest.config_hash == config_hash(settings) and manifest.inputs == inputs


def _write(
    plan: Plan,
    output: Path,
    content: Mapping[str, Any],
    samples: Mapping[str, list[dict[str, Any]]],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    from evaluation.results import write_lines

    first = ("model", "tasks", "perplexity")
    with atomic_dir(output) as folder:
        atomic_write_json(folder / RESULTS, {key: content[key] for key in (*first, *content)})
        for name, lines in samples.items():
            write_lines(folder / name, lines)
        write_manifest(
            folder,
            kind="results",
            config=settings,
            inputs=inputs,
            counts={
                "questions": sum(len(lines) for lines in samples.values()),
                "perplexity_tokens": sum(entry["tokens"] for entry in content["perplexity"]),
            },
            licenses=plan.licenses,
        )

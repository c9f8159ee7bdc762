"""What was run: the way of the data with its counts, the stages, the machine."""

from dataclasses import dataclass

from evaluation.report import numbers
from evaluation.report.build import Page
from evaluation.report.reading import Json, number


@dataclass(frozen=True, kw_only=True)
class Step:
    """One box of the data's way."""

    name: str
    """What it is."""
    lines: list[str]
    """Its counts."""


def flow(page: Page) -> list[Step]:
    """Sources, corpus, shards, pretraining, model, finetuning, evaluation: those that are there."""
    steps = [_sources(page), _corpus(page), _shards(page), _pretraining(page), _model(page)]
    steps += [_finetuning(page), _evaluation(page)]
    return [step for step in steps if step is not None] or [Step(name="Nothing yet", lines=["no stage ran"])]


def _sources(page: Page) -> Step | None:
    if page.corpus is None:
        return None
    lines = [f"{len(page.corpus.sources)} sources", f"{numbers.count(page.corpus.total('read'))} records"]
    return Step(name="Sources", lines=lines)


def _corpus(page: Page) -> Step | None:
    if page.corpus is None:
        return None
    documents = f"{numbers.count(page.corpus.total('kept'))} documents"
    characters = f"{numbers.short(page.corpus.total('chars'))} characters"
    return Step(name="Corpus", lines=[documents, characters, *_time(page, "curate")])


def _shards(page: Page) -> Step | None:
    if page.shards is None:
        return None
    tokens = page.shards.total("train_tokens") + page.shards.total("validation_tokens")
    return Step(name="Shards", lines=[f"{numbers.short(tokens)} tokens", *_time(page, "tokenize")])


def _pretraining(page: Page) -> Step | None:
    run = page.pretraining
    if run is None:
        return None
    lines = [f"{numbers.count(run.last_step)} steps", f"{numbers.short(run.total('tokens'))} tokens"]
    return Step(name="Pretraining", lines=[*lines, *_time(page, "pretrain")])


def _model(page: Page) -> Step | None:
    found = [item.manifest for item in page.provenance if item.name == "exported model"]
    if not found:
        return None
    parameters = number(found[0].counts.get("parameters"))
    lines = [] if parameters is None else [f"{numbers.short(parameters)} parameters"]
    return Step(name="Exported model", lines=[*lines, *_time(page, "export")])


def _finetuning(page: Page) -> Step | None:
    run = page.finetuning
    if run is None:
        return None
    return Step(name="Finetuning", lines=[f"{numbers.count(run.last_step)} steps", *_time(page, "finetune")])


def _evaluation(page: Page) -> Step | None:
    if not page.models:
        return None
    models = f"{len(page.models)} model{'s' if len(page.models) > 1 else ''}"
    tasks = len({row.task for row in page.tasks})
    lines = [models, f"{tasks} task{'s' if tasks != 1 else ''}"]
    return Step(name="Evaluation", lines=[*lines, *_time(page, "evaluate")])


def _time(page: Page, stage: str) -> list[str]:
    seconds = number(page.stages.get(stage, {}).get("seconds"))
    return [] if seconds is None else [numbers.duration(seconds)]


def stage_rows(page: Page) -> list[Json]:
    """The stages with their times and each one's share of the whole, per cent."""
    seconds = {name: number(record.get("seconds")) or 0.0 for name, record in page.stages.items()}
    total = sum(seconds.values()) or 1.0
    return [
        {
            "name": name,
            "state": str(record.get("state", "not recorded")),
            "seconds": number(record.get("seconds")),
            "seconds_or_0": seconds[name],
            "share": round(100 * seconds[name] / total, 1),
            "started": record.get("started"),
            "ended": record.get("ended"),
        }
        for name, record in page.stages.items()
    ]


def facts(page: Page) -> list[tuple[str, str]]:
    """Where, when and with what the run was made."""
    found: list[tuple[str, str | None]] = [
        ("work folder", page.recipe.work_dir),
        ("base model", _used(page, "model", "base")),
        ("git revision", ", ".join(_revisions(page)) or None),
        ("machine", ", ".join(_hosts(page)) or None),
        ("evaluated on", ", ".join(_devices(page)) or None),
        ("pretraining", _layout(page)),
        ("seed", _used(page, "seed")),
        ("versions", _versions(page)),
    ]
    return [(term, value or "not recorded") for term, value in found]


def _revisions(page: Page) -> list[str]:
    manifests = [item.manifest.git_revision for item in page.provenance]
    runs = [run.info.get("git_revision") for run in (page.pretraining, page.finetuning) if run]
    return _distinct([*manifests, *runs])


def _hosts(page: Page) -> list[str]:
    return _distinct([run.info.get("host") for run in (page.pretraining, page.finetuning) if run])


def _devices(page: Page) -> list[str]:
    return _distinct(
        [f"{m.content['device']} ({m.content.get('dtype')})" for m in page.models if m.content.get("device")]
    )


def _distinct(values: list[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _used(page: Page, *keys: str) -> str | None:
    """A value of the recipe that the run was recorded with."""
    value: object = page.used_recipe
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else str(value)


def _layout(page: Page) -> str | None:
    if page.pretraining is None:
        return None
    engine, precision, batch, length = (
        _used(page, "pretrain", key)
        for key in ("engine", "precision", "global_batch_size", "sequence_length")
    )
    tensor, pipeline, data = (
        _used(page, "pretrain", "parallel", key)
        for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "data_parallel_size")
    )
    if None in (engine, precision, batch, length, tensor, pipeline, data):
        return None
    return (
        f"{engine}, {precision}, tensor {tensor} × pipeline {pipeline} × data {data}; "
        f"{batch} sequences of {length} tokens a step"
    )


def _versions(page: Page) -> str | None:
    runs = [run.info.get("packages") for run in (page.pretraining, page.finetuning) if run]
    manifests = [dict(item.manifest.packages) for item in page.provenance]
    for packages in [*runs, *manifests]:
        if packages:
            return ", ".join(f"{name} {version}" for name, version in packages.items())
    return None

"""The content of the page: every part of the run that is on disk, and notes about what is not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from evaluation.report.charts import training_plots
from evaluation.report.corpus import Corpus, Shards, read_corpus, read_shards
from evaluation.report.plot import Plot
from evaluation.report.questions import question_sets
from evaluation.report.reading import Json, Notes, read_json, read_yaml
from evaluation.report.results import (
    PART,
    ModelResults,
    PerplexityRow,
    TaskRow,
    perplexity_rows,
    read_results,
    task_rows,
)
from evaluation.report.training import TrainingRun, kinds_of, read_run
from meditron.config import Recipe
from meditron.manifest import MANIFEST, Manifest, read_manifest


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """A folder with a manifest."""

    name: str
    """What it is in the run."""
    folder: Path
    """Where it is."""
    manifest: Manifest
    """Its manifest."""


@dataclass(kw_only=True)
class Page:
    """Everything that the page shows."""

    recipe: Recipe
    """The recipe that the report was made with."""
    title: str
    """Name of the run."""
    written: str
    """UTC time of writing."""
    notes: Notes = field(default_factory=Notes)
    """What is missing or damaged."""
    used_recipe: Json = field(default_factory=dict)
    """The recipe of the run, as it was recorded; empty where it was not."""
    used_recipe_path: Path | None = None
    """Where it was recorded."""
    stages: Mapping[str, Json] = field(default_factory=dict)
    """Stage to its record in `<work_dir>/run.json`."""
    corpus: Corpus | None = None
    """The corpus."""
    shards: Shards | None = None
    """The token table."""
    pretraining: TrainingRun | None = None
    """The pretraining run."""
    pretraining_plots: list[Plot] = field(default_factory=list)
    """Its curves."""
    finetuning: TrainingRun | None = None
    """The finetuning run."""
    finetuning_plots: list[Plot] = field(default_factory=list)
    """Its curves."""
    finetuning_data: Json | None = None
    """What became of the conversations."""
    models: list[ModelResults] = field(default_factory=list)
    """The evaluated models, the earliest first."""
    perplexity: list[PerplexityRow] = field(default_factory=list)
    """Perplexity by source."""
    tasks: list[TaskRow] = field(default_factory=list)
    """Accuracy by task and protocol."""
    questions: list[Json] = field(default_factory=list)
    """Questions for the browser."""
    provenance: list[Provenance] = field(default_factory=list)
    """Folders with their manifests."""

    @property
    def labels(self) -> list[str]:
        """Labels of the evaluated models."""
        return [model.label for model in self.models]


def build(recipe: Recipe) -> Page:
    """Read all parts of a recipe's run."""
    page = Page(
        recipe=recipe,
        title=recipe.report.title or Path(recipe.work_dir).resolve().name,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _add_used_recipe(page)
    _add_stages(page)
    _add_corpus(page)
    _add_training(page)
    _add_evaluation(page)
    _add_provenance(page)
    return page


def _add_used_recipe(page: Page) -> None:
    """The recipe that the stages were run with: the report's own may be another one, or none."""
    recipe = page.recipe
    folders = (str(recipe.pretrain.run_dir), str(recipe.finetune.run_dir))
    recorded = [Path(recipe.work_dir) / "recipe.yaml", *(Path(folder) / "config.yaml" for folder in folders)]
    path = next((path for path in recorded if path.is_file()), None)
    if path is not None:
        page.used_recipe = page.notes.attempt("run", path, lambda: read_yaml(path)) or {}
        page.used_recipe_path = path


def _add_stages(page: Page) -> None:
    path = Path(page.recipe.work_dir) / "run.json"
    if not path.exists():
        text = f"{path} does not exist: the stages were run one by one, so their times are not known"
        page.notes.add("stages", text)
        return
    page.stages = page.notes.attempt("stages", path, lambda: _stages(path)) or {}


def _stages(path: Path) -> dict[str, Json]:
    return {name: dict(record) for name, record in dict(read_json(path)["stages"]).items()}


def _add_corpus(page: Page) -> None:
    recipe, notes = page.recipe, page.notes
    corpus, shards = Path(str(recipe.tokenize.corpus)), Path(str(recipe.tokenize.output))
    logs = Path(recipe.work_dir) / "logs" / "curate" / "throughput.json"
    made_here = logs if str(corpus) == recipe.curate.output else None
    page.corpus = notes.attempt("corpus", corpus, lambda: read_corpus(corpus, made_here))
    page.shards = notes.attempt("tokens", shards, lambda: read_shards(shards))


def _add_training(page: Page) -> None:
    recipe, notes = page.recipe, page.notes
    folder = Path(str(recipe.pretrain.run_dir))
    page.pretraining = notes.attempt("pretraining", folder, lambda: read_run(folder))
    if page.pretraining is not None:
        page.pretraining_plots = training_plots(page.pretraining, kinds(page))
    if not recipe.finetune.data:
        notes.add("finetuning", "not part of this recipe (finetune.data is empty)")
        return
    tuning = Path(str(recipe.finetune.run_dir))
    page.finetuning = notes.attempt("finetuning", tuning, lambda: read_run(tuning))
    if page.finetuning is not None:
        page.finetuning_plots = training_plots(page.finetuning, kinds(page))
        page.finetuning_data = notes.attempt(
            "finetuning", tuning / "data.json", lambda: _conversations(tuning / "data.json")
        )


def kinds(page: Page) -> dict[str, str]:
    """Source to `medical` or `general`."""
    corpus = {source.name: {"kind": source.kind} for source in page.corpus.sources} if page.corpus else None
    return kinds_of(corpus, page.shards.sources if page.shards else None)


def _conversations(path: Path) -> Json:
    """File to its counts, of training and held-out files."""
    content = read_json(path)
    groups = [("training", content["train"]), *[("held out", counts) for counts in content["validation"]]]
    return {
        file: {"use": use, **{key: int(value) for key, value in counts.items()}}
        for use, group in groups
        for file, counts in group.items()
    }


def _add_evaluation(page: Page) -> None:
    recipe, notes = page.recipe, page.notes
    output = Path(str(recipe.evaluate.output))
    page.models = read_results(output, [*recipe.evaluate.models, *recipe.evaluate.variants], notes)
    page.tasks = task_rows(page.models, notes)
    page.perplexity = perplexity_rows(page.models)
    page.questions = question_sets(page.tasks, page.models, recipe.report.questions_per_task, notes)
    if page.models and not page.perplexity:
        notes.add(PART, "perplexity on held-out text was not measured")
    if page.models and not page.tasks:
        notes.add(PART, "no task was measured")


def _add_provenance(page: Page) -> None:
    for name, folder, kind in _folders(page):
        if (folder / MANIFEST).is_file():
            manifest = page.notes.attempt(
                "provenance", folder, partial(read_manifest, folder, kind=kind, check_files="none")
            )
            if manifest is not None:
                page.provenance.append(Provenance(name=name, folder=folder, manifest=manifest))


def _folders(page: Page) -> list[tuple[str, Path, str]]:
    recipe = page.recipe
    checkpoints = sorted((Path(str(recipe.pretrain.run_dir)) / "checkpoints").glob("step_*"))
    return [
        ("corpus", Path(str(recipe.tokenize.corpus)), "corpus"),
        ("shards", Path(str(recipe.tokenize.output)), "shards"),
        ("base model", Path(recipe.model.base), "model"),
        *[("last checkpoint", path, "checkpoint") for path in checkpoints[-1:]],
        ("exported model", Path(str(recipe.export.output)), "model"),
        ("finetuned model", Path(str(recipe.finetune.run_dir)) / "model", "model"),
        *[(f"results of {model.label}", model.folder, "results") for model in page.models],
    ]

"""The stages as their launcher sees them: what each needs in a recipe, from whom, and what it leaves."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meditron.config import EvaluateConfig, PretrainConfig, Recipe, resolve
from meditron.config.launch import STAGE_NAMES
from meditron.config.loading import recipe_dict
from meditron.errors import ManifestError
from meditron.files import sha256_file
from meditron.manifest import MANIFEST, config_hash, read_manifest
from meditron.runs import RunFolder

_WITHOUT_EFFECT = {"workers", "executor", "task_memory_gb", "nproc", "timeout_minutes"}
"""Settings that change how fast a stage works, not what it leaves."""


def _one(recipe: Recipe) -> int:
    return 1


def _none(recipe: Recipe) -> None:
    return None


def _whole(recipe: Recipe, index: int, count: int) -> Recipe:
    return recipe


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One verb of a recipe's way from sources to report."""

    name: str
    """The verb."""
    settings: tuple[str, ...]
    """Fields of the recipe that shape its output."""
    after: tuple[str, ...]
    """Stages whose output it reads."""
    left_out: Callable[[Recipe], str | None]
    """Why a recipe does not have this stage; None when it does."""
    output: Callable[[Recipe], Path]
    """File or folder it leaves."""
    identity: Callable[[Path], str]
    """Hash of a whole output; raises ManifestError when it is missing, unfinished or damaged."""
    on_gpus: bool = False
    """Whether it computes with a model that belongs on GPUs, where there are any."""
    processes: Callable[[Recipe], int] = _one
    """Processes that it works in."""
    cores: Callable[[Recipe], int] = _one
    """CPU cores that each of them keeps busy."""
    run_dir: Callable[[Recipe], str | None] = _none
    """Run folder of a stage that saves on a signal and goes on from there; None for the others."""
    tasks: Callable[[Recipe], int] = _one
    """Tasks of the job array that does its work beforehand, so that it only puts their parts together; 1 for
    a stage without."""
    part: Callable[[Recipe, int, int], Recipe] = _whole
    """The recipe of one task, by its index and their number."""

    def config_hash(self, recipe: Recipe) -> str:
        """Hash of what the recipe says about this stage."""
        everything = recipe_dict(recipe)
        return config_hash(_shaping({name: everything[name] for name in self.settings}))

    def finished_identity(self, recipe: Recipe) -> str | None:
        """Hash of the output, or None where there is no whole one."""
        try:
            return self.identity(self.output(recipe))
        except ManifestError:
            return None

    def inputs(self, recipe: Recipe) -> dict[str, str | None]:
        """Name of each input to the hash it has now; None for what is not there."""
        found = {name: BY_NAME[name].finished_identity(recipe) for name in self.after}
        if "model" in self.settings:
            manifest = Path(recipe.model.base) / MANIFEST
            found["base"] = sha256_file(manifest) if manifest.is_file() else None
        return found


def _shaping(value: Any) -> Any:  # noqa: ANN401 - any tree of plain values
    if not isinstance(value, dict):
        return value
    return {key: _shaping(item) for key, item in value.items() if key not in _WITHOUT_EFFECT}


def _folder(kind: str) -> Callable[[Path], str]:
    return lambda path: read_manifest(path, kind=kind).hash


def _training_run(path: Path) -> str:
    """The newest checkpoint of a run that ended by itself."""
    run = RunFolder(path)
    manifests = sorted(run.checkpoints.glob(f"step_*/{MANIFEST}"))
    if run.info().get("state") != "finished" or not manifests:
        raise ManifestError(f"{path}: holds no finished training run; run the stage that makes it")
    return sha256_file(manifests[-1])


def _results(path: Path) -> str:
    """All result folders, each of which must be whole."""
    folders = [path / MANIFEST, *sorted(path.glob(f"*/{MANIFEST}"))]
    hashes = [read_manifest(file.parent, kind="results").hash for file in folders if file.is_file()]
    if not hashes:
        raise ManifestError(f"{path}: holds no results; run the stage that makes them")
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _page(path: Path) -> str:
    if not path.is_file():
        raise ManifestError(f"{path}: does not exist; run the stage that makes it")
    return sha256_file(path)


def _no_sources(recipe: Recipe) -> str | None:
    return None if recipe.curate.sources else "curate.sources is empty"


def _no_import(recipe: Recipe) -> str | None:
    return None if recipe.model.import_from else "model.import_from is not set"


def _no_corpus(recipe: Recipe) -> str | None:
    if recipe.curate.sources or Path(str(recipe.tokenize.corpus)).is_dir():
        return None
    return f"no corpus at {recipe.tokenize.corpus}"


def _no_pretraining(recipe: Recipe) -> str | None:
    defaults = resolve(replace(recipe, pretrain=PretrainConfig())).pretrain
    return "no pretrain settings in the recipe" if recipe.pretrain == defaults else None


def _no_checkpoint(recipe: Recipe) -> str | None:
    if _no_pretraining(recipe) is None or Path(str(recipe.export.run_dir)).is_dir():
        return None
    return f"no pretraining run at {recipe.export.run_dir}"


def _no_instructions(recipe: Recipe) -> str | None:
    return None if recipe.finetune.data else "finetune.data is empty"


def _no_tasks(recipe: Recipe) -> str | None:
    defaults = resolve(replace(recipe, evaluate=EvaluateConfig())).evaluate
    return "no evaluate settings in the recipe" if recipe.evaluate == defaults else None


def _nothing_to_report(recipe: Recipe) -> str | None:
    others = (stage for stage in STAGES if stage.name != "report")
    return None if any(stage.left_out(recipe) is None for stage in others) else "no other stage has a part"


def _part_of_curation(recipe: Recipe, index: int, count: int) -> Recipe:
    return replace(recipe, curate=replace(recipe.curate, part=index, parts=count))


def _part_of_evaluation(recipe: Recipe, index: int, count: int) -> Recipe:
    return replace(recipe, evaluate=replace(recipe.evaluate, part=index, parts=count))


STAGES: tuple[Stage, ...] = (
    Stage(
        name="curate",
        settings=("curate", "data_root", "seed"),
        after=(),
        left_out=_no_sources,
        output=lambda recipe: Path(str(recipe.curate.output)),
        identity=_folder("corpus"),
        cores=lambda recipe: recipe.curate.workers,
        tasks=lambda recipe: recipe.launch.curate_tasks,
        part=_part_of_curation,
    ),
    Stage(
        name="import",
        settings=("model",),
        after=(),
        left_out=_no_import,
        output=lambda recipe: Path(str(recipe.model.import_to)),
        identity=_folder("model"),
    ),
    Stage(
        name="tokenize",
        settings=("tokenize", "model"),
        after=("curate", "import"),
        left_out=_no_corpus,
        output=lambda recipe: Path(str(recipe.tokenize.output)),
        identity=_folder("shards"),
        cores=lambda recipe: recipe.tokenize.workers,
    ),
    Stage(
        name="pretrain",
        settings=("pretrain", "model", "seed"),
        after=("import", "tokenize"),
        left_out=_no_pretraining,
        output=lambda recipe: Path(str(recipe.pretrain.run_dir)),
        identity=_training_run,
        on_gpus=True,
        processes=lambda recipe: recipe.pretrain.parallel.world_size,
        run_dir=lambda recipe: recipe.pretrain.run_dir,
    ),
    Stage(
        name="export",
        settings=("export",),
        after=("pretrain",),
        left_out=_no_checkpoint,
        output=lambda recipe: Path(str(recipe.export.output)),
        identity=_folder("model"),
    ),
    Stage(
        name="finetune",
        settings=("finetune", "data_root", "seed"),
        after=("export",),
        left_out=_no_instructions,
        output=lambda recipe: Path(str(recipe.finetune.run_dir)) / "model",
        identity=_folder("model"),
        on_gpus=True,
        processes=lambda recipe: recipe.finetune.nproc,
        run_dir=lambda recipe: recipe.finetune.run_dir,
    ),
    Stage(
        name="evaluate",
        settings=("evaluate", "data_root", "seed", "model"),
        after=("tokenize", "export", "finetune"),
        left_out=_no_tasks,
        output=lambda recipe: Path(str(recipe.evaluate.output)),
        identity=_results,
        on_gpus=True,
        processes=lambda recipe: recipe.evaluate.nproc,
        tasks=lambda recipe: recipe.launch.evaluate_tasks,
        part=_part_of_evaluation,
    ),
    Stage(
        name="report",
        settings=("report",),
        after=("curate", "tokenize", "pretrain", "export", "finetune", "evaluate"),
        left_out=_nothing_to_report,
        output=lambda recipe: Path(str(recipe.report.output)),
        identity=_page,
    ),
)
"""Every stage, in the order of the work."""

BY_NAME = {stage.name: stage for stage in STAGES}
assert tuple(BY_NAME) == STAGE_NAMES

"""The recipe: one configuration for all stages, and how its paths hang together."""

from dataclasses import dataclass, field
from pathlib import Path

from meditron.config.curation import CurateConfig, TokenizeConfig
from meditron.config.evaluation import EvaluateConfig
from meditron.config.finetune import FinetuneConfig
from meditron.config.generate import GenerateConfig
from meditron.config.launch import LaunchConfig, ReportConfig, RunConfig
from meditron.config.model import ExportConfig, ModelConfig
from meditron.config.pretrain import PretrainConfig
from meditron.config.runs import CheckpointsConfig, CompareConfig, DoctorConfig


@dataclass(kw_only=True)
class Recipe:
    """All stages of one way from sources to evidence."""

    work_dir: str = "runs/default"
    """Folder that all outputs go under, unless a stage names its own."""
    data_root: str | None = None
    """Folder that relative paths of sources, questions and instruction data are looked up in.
    Default: the current folder."""
    seed: int = 1234
    """Seed of everything random: splits, data order, initialisation, sampling."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The base model and its options."""
    curate: CurateConfig = field(default_factory=CurateConfig)
    """Sources to corpus."""
    tokenize: TokenizeConfig = field(default_factory=TokenizeConfig)
    """Corpus to shards."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Shards to checkpoints."""
    export: ExportConfig = field(default_factory=ExportConfig)
    """Checkpoint to Hugging Face folder."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Instruction tuning."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Benchmarks and perplexity."""
    report: ReportConfig = field(default_factory=ReportConfig)
    """The HTML report."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    """Trying a model."""
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    """The SLURM job."""
    run: RunConfig = field(default_factory=RunConfig)
    """Which stages `meditron run` goes through."""
    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    """Looking at checkpoints."""
    compare: CompareConfig = field(default_factory=CompareConfig)
    """Comparing two runs."""
    doctor: DoctorConfig = field(default_factory=DoctorConfig)
    """GPUs to propose a layout for."""


def resolve(recipe: Recipe) -> Recipe:
    """Fill every path that was left out; each stage then finds what the one before it wrote.

    Changes `recipe` in place and returns it. Raises ConfigError where a model option contradicts a stage.
    """
    from meditron.models.options import parse_options

    work = Path(recipe.work_dir)

    def fill(section: object, **paths: str) -> None:
        for name, value in paths.items():
            if getattr(section, name) is None:
                setattr(section, name, value)

    fill(recipe.model, import_to=str(work / "base"))
    fill(recipe.curate, output=str(work / "corpus"))
    fill(recipe.curate.train_classifier, output=str(work / "classifier.safetensors"))
    fill(recipe.tokenize, corpus=recipe.curate.output or "", output=str(work / "shards"))
    fill(recipe.tokenize, tokenizer=recipe.model.base)
    fill(recipe.pretrain, shards=recipe.tokenize.output or "", run_dir=str(work / "pretrain"))
    fill(recipe.export, run_dir=recipe.pretrain.run_dir or "", output=str(work / "model"))
    fill(recipe.finetune, model=recipe.export.output or "", run_dir=str(work / "finetune"))
    fill(recipe.evaluate, output=str(work / "results"))
    fill(recipe.evaluate.perplexity, corpus=recipe.curate.output or "")
    recipe.evaluate.models = recipe.evaluate.models or _models(recipe)
    recipe.evaluate.check_variants()
    fill(recipe.report, output=str(work / "report.html"))
    for option in parse_options(recipe.model.options):
        option.check_recipe(recipe)
    return recipe


def _models(recipe: Recipe) -> dict[str, str]:
    """The models a recipe has or makes, by label, in the order they are made."""
    from meditron.models.architecture import PRESETS

    base = recipe.model.base
    models = {} if base in PRESETS and not Path(base).is_dir() else {"base": base}
    models["pretrained"] = recipe.export.output or ""
    if recipe.finetune.data:
        models["finetuned"] = str(Path(recipe.finetune.run_dir or "") / "model")
    return models


def data_path(recipe: Recipe, path: str) -> Path:
    """A path of the recipe's data: as it is when absolute, else under `data_root`."""
    return Path(recipe.data_root or ".") / path

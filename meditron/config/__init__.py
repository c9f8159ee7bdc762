"""Configuration of every stage, as dataclasses that the command line and the recipes are read into."""

from meditron.config.curation import (
    BenchmarkConfig,
    CleanConfig,
    CurateConfig,
    DecontaminateConfig,
    DedupConfig,
    FilterConfig,
    PhiConfig,
    SourceConfig,
    TokenizeConfig,
    TrainClassifierConfig,
)
from meditron.config.evaluation import (
    ColumnsConfig,
    EvaluateConfig,
    GenerationConfig,
    PasskeyConfig,
    PerplexityConfig,
    TaskConfig,
    VariantConfig,
)
from meditron.config.finetune import FinetuneConfig
from meditron.config.generate import GenerateConfig
from meditron.config.launch import LaunchConfig, ReportConfig, RunConfig
from meditron.config.model import ExportConfig, ModelConfig
from meditron.config.pretrain import PretrainConfig
from meditron.config.recipe import Recipe, resolve

__all__ = [
    "BenchmarkConfig",
    "CleanConfig",
    "ColumnsConfig",
    "CurateConfig",
    "DecontaminateConfig",
    "DedupConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FilterConfig",
    "FinetuneConfig",
    "GenerateConfig",
    "GenerationConfig",
    "LaunchConfig",
    "ModelConfig",
    "PasskeyConfig",
    "PerplexityConfig",
    "PhiConfig",
    "PretrainConfig",
    "Recipe",
    "ReportConfig",
    "RunConfig",
    "SourceConfig",
    "TaskConfig",
    "TokenizeConfig",
    "TrainClassifierConfig",
    "VariantConfig",
    "resolve",
]

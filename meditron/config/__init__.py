"""Configuration of every stage, as dataclasses that the command line and the recipes are read into."""

from meditron.config.curation import CurateConfig, FilterConfig, SourceConfig, TokenizeConfig
from meditron.config.evaluation import EvaluateConfig
from meditron.config.finetune import FinetuneConfig
from meditron.config.launch import LaunchConfig, ReportConfig, RunConfig
from meditron.config.model import ExportConfig, ModelConfig
from meditron.config.pretrain import PretrainConfig
from meditron.config.recipe import Recipe, resolve

__all__ = [
    "CurateConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FilterConfig",
    "FinetuneConfig",
    "LaunchConfig",
    "ModelConfig",
    "PretrainConfig",
    "Recipe",
    "ReportConfig",
    "RunConfig",
    "SourceConfig",
    "TokenizeConfig",
    "resolve",
]

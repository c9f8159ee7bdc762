"""The house's own rules: who may import whom, and what a module may cost at import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("data_curation", "pretrain", "finetune", "evaluation", "launch")
LIGHT = (
    "meditron/__init__.py",
    "meditron/cli.py",
    "meditron/errors.py",
    "meditron/files.py",
    "meditron/runs.py",
)
HEAVY = {"torch", "transformers", "datasets", "megatron", "accelerate", "lm_eval", "datatrove", "deepspeed"}


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_another(stage: str) -> None:
    others = set(STAGES) - {stage}
    for path in (ROOT / stage).rglob("*.py"):
        assert not imported(path) & others, path.relative_to(ROOT)


def test_the_shared_room_imports_no_stage() -> None:
    for path in (ROOT / "meditron").rglob("*.py"):
        assert not imported(path) & set(STAGES), path.relative_to(ROOT)


def test_light_modules_import_nothing_heavy() -> None:
    paths = [ROOT / name for name in LIGHT] + sorted((ROOT / "meditron" / "config").glob("*.py"))
    for path in paths:
        assert not imported(path, top_level=True) & HEAVY, path.relative_to(ROOT)

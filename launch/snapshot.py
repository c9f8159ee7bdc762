"""A copy of this package's code for the jobs of one submission."""

import shutil
from pathlib import Path

from meditron.files import atomic_dir, atomic_write_json
from meditron.manifest import git_revision

ROOMS = ("meditron", "data_curation", "pretrain", "finetune", "evaluation", "launch")


def write_snapshot(folder: Path) -> None:
    """Copy all rooms to `folder`, which jobs put on their PYTHONPATH, and say what they are a copy of."""
    root = Path(__file__).resolve().parent.parent
    with atomic_dir(folder) as aside:
        for room in ROOMS:
            shutil.copytree(root / room, aside / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        atomic_write_json(aside / "revision.json", {"git_revision": git_revision()})

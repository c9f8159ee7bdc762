from pathlib import Path

import pytest

from meditron.config import Recipe
from meditron.config.loading import load_recipe

RECIPE = Path(__file__).parent / "recipe.yaml"


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe(RECIPE)

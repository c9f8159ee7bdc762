"""What `meditron curate` does beside curating: `curate plan`, `curate train-classifier`."""

from data_curation import mixture
from data_curation import train_classifier as training
from meditron.config import Recipe


def plan(recipe: Recipe) -> None:
    """Print what pretraining would see of each source, and write nothing."""
    mixture.main(recipe)


def train_classifier(recipe: Recipe) -> None:
    """Learn medical from general text, for `curate.filters.classifier`."""
    training.main(recipe)

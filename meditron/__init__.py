"""What every stage of the pipeline shares: configuration, models, manifests, run folders, errors."""

__version__ = "0.1.0"

"""Continued pretraining: shards and a base model to checkpoints."""

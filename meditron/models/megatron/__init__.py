"""Megatron-core: its model built from our architecture, and weights in and out of it."""

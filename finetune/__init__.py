"""Instruction tuning of a Hugging Face model on conversations."""

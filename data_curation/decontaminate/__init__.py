"""Keeping the questions of benchmarks out of the corpus."""

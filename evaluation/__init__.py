"""Evaluation: questions, the language-model adapter, statistics, results and the report."""

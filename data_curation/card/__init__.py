"""The data card of a corpus: what is in it, where it came from, and what was left out and why."""

from data_curation.card.write import LENGTHS, length_class, write_card

__all__ = ["LENGTHS", "length_class", "write_card"]

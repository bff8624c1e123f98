"""Scores and answers that other tools wrote, paired sample by sample into a score table."""

from cotbal.imports.sources import Source, find_sources
from cotbal.imports.table import ImportedScores, import_scores

__all__ = ["ImportedScores", "Source", "find_sources", "import_scores"]

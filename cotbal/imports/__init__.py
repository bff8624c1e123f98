"""Scores and answers that other tools wrote, paired sample by sample into a score table."""

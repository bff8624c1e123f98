"""Scoring by an OpenAI-compatible server, given or started for each unit."""

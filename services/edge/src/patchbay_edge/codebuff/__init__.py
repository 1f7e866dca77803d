"""Codebuff's clients at the edge."""

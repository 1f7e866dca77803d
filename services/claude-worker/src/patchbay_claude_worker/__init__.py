"""Serves the Anthropic API."""

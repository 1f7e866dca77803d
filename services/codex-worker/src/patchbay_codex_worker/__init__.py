"""Serves the ChatGPT Codex backend, with the accounts behind it, and OpenAI Responses upstreams."""

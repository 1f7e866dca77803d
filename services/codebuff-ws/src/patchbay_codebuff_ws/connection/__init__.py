"""Codebuff's WebSocket protocol: what a client says, what it is told, and the prompts that run for it."""

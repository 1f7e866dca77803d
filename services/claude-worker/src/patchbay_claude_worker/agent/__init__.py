"""Agent mode: Claude Code with its own tools, a process for each conversation that is under way."""

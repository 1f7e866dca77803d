"""The loop of Codebuff's agents: their prompts, steps, tools and sub-agents."""

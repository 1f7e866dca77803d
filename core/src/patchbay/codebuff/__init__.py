"""What Codebuff's two protocols have in common: the agents."""

"""What replicas share, in Redis: admission within limits, and the registry of workers and edges."""

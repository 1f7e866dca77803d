"""Model mode: the `claude` program as a plain endpoint of the Messages API, one process a request."""

"""The `claude` program as a process: started, spoken to, pooled and ended. Nothing here knows what it is used for."""

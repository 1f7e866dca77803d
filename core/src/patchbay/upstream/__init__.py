"""How a worker talks to an upstream over HTTP: transport, credentials and profile are three separate things."""

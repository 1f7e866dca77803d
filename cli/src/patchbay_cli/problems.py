"""What keeps a command from doing its work."""


class CommandFailed(Exception):
    """A command cannot go on. Its text is for the operator to read."""

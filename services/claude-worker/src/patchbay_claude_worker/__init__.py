"""Serves the Anthropic API, and Claude Code processes."""

import os

# gRPC's handlers around fork start its threads again in the child, where they die of a segmentation fault before the
# child has become what it is to be: one start in fifteen under traffic. Nothing here forks but to start a program.
# Read when gRPC begins: https://github.com/grpc/grpc/blob/master/doc/fork_support.md
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

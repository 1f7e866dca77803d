"""Serves the Anthropic API, and Claude Code processes."""

import os

# This worker starts programs. gRPC's own handlers of a fork run in what is to become the program, where some of them
# crash it before it is one: https://github.com/grpc/grpc/blob/master/doc/fork_support.md
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

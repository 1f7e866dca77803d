"""Patchbay's edge: terminates HTTP clients and forwards canonical chats to the workers."""

"""Serves OpenAI-compatible upstreams: OpenAI, CodeBuddy, Gemini, OpenRouter and any server of that dialect."""

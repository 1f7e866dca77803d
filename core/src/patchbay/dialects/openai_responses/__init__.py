"""OpenAI Responses, as spoken by OpenAI's platform, the ChatGPT backend of Codex, and servers compatible with them."""

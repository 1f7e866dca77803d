"""ChatGPT sign-ins of Codex: what one is, where the Codex CLI keeps it, and the issuer it comes from."""

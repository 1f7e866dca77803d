"""Prompts that are commands for the shell, and prompts that have a meaning of their own."""

from __future__ import annotations

from collections.abc import Mapping

_BARE = frozenset({"clear", "ls", "pwd", "dir"})
# Not those that are English words as well: "make it faster" is no command.
_STARTS = frozenset(
    {
        "git", "npm", "npx", "yarn", "pnpm", "bun", "node", "cat", "cd", "cp", "mv", "rm", "mkdir", "rmdir", "ls",
        "echo", "grep", "ps", "curl", "wget", "docker", "pip", "python", "python3", "cargo",
    }
)  # fmt: skip
# Longer ones may be sentences about a tool.
_MAX_WORDS = 4
_SENTENCE_ENDS = ("?", ".", "!")


def shell_command(prompt: str) -> str | None:
    """The command that a prompt is, to be run with no agent; None when it is none."""
    text = prompt.strip()
    if "\n" not in text:
        if text.startswith("!") and text[1:].strip():
            return text[1:].strip()
        words = text.split()
        if text in _BARE:
            return text
        is_sentence = text.endswith(_SENTENCE_ENDS)
        if words and words[0] in _STARTS and len(words) <= _MAX_WORDS and not is_sentence:
            return text
    if text.startswith("/run ") and text[5:].strip():
        return text[5:].strip()
    return None


COMPACT = "compact"
_SPECIAL: Mapping[str, str] = {
    "init": (
        "Set this project up for agents. Look at what it is and how it is built, tested and run. Then write, if they "
        "are not there yet, a short knowledge.md at its root with what an agent should know before it works here, "
        "and a codebuff.json with the commands that check changed files, as fileChangeHooks. Change nothing else."
    ),
    "export": (
        "Write this conversation into a Markdown file in the project, with a name that tells what it is about: what "
        "the user asked, what was done and decided, and what is open. Leave out the details of tools."
    ),
    COMPACT: (
        "Summarize this conversation, so that the summary can take its place: what the user wants, in their own words "
        "where it matters; what was decided and why; which files were read, created or changed and how; which "
        "commands were run and what came of it; what is open, and what comes next. Give the summary alone and use no "
        "tools."
    ),
}


def special_prompt(prompt: str) -> str | None:
    """The name of a prompt that is `init`, `export` or `compact`, with a slash or without; None for any other."""
    name = prompt.strip().lower().removeprefix("/")
    return name if name in _SPECIAL else None


def instruction_of(name: str) -> str:
    """What a model is told for such a prompt."""
    return _SPECIAL[name]

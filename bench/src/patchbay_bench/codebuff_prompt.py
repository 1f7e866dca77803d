"""A prompt as Codebuff's SDK sends it: with the state of a session that begins, in a project of some size."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

_FOLDERS: Final = 10
_FILES: Final = 10
_SYMBOLS: Final = 5
_KNOWLEDGE: Final = "Functions are pure where they can be. Tests stand beside the code that they are of.\n" * 10


def prompt_data(token: str, *, cost_mode: str = "normal") -> Json:
    """The action without its id: some 20 KB, nearly all of it the project.

    Args:
        token: The client's key.
    """
    return {
        "prompt": "Say something about fifty tokens long.",
        "fingerprintId": "codebuff-sdk-bench",
        "authToken": token,
        "costMode": cost_mode,
        "agentId": "base",
        "toolResults": [],
        "sessionState": {
            "mainAgentState": {
                "agentId": "main-agent",
                "agentType": None,
                "agentContext": {},
                "subagents": [],
                "messageHistory": [],
                "stepsRemaining": 25,
                "creditsUsed": 0,
                "directCreditsUsed": 0,
                "ancestorRunIds": [],
                "childRunIds": [],
            },
            "fileContext": _project(),
        },
    }


def _project() -> Json:
    paths = [f"src/part{folder}/module{file}.ts" for folder in range(_FOLDERS) for file in range(_FILES)]
    return {
        "projectRoot": "/home/someone/project",
        "cwd": "/home/someone/project",
        "fileTree": [_folder("src", "src", [_part(folder) for folder in range(_FOLDERS)])],
        "fileTokenScores": {path: {f"symbol{number}": 0.5 + number for number in range(_SYMBOLS)} for path in paths},
        "tokenCallers": {},
        "knowledgeFiles": {"knowledge.md": _KNOWLEDGE},
        "agentTemplates": {},
        "customToolDefinitions": {},
        "gitChanges": {"status": "", "diff": "", "diffCached": "", "lastCommitMessages": ""},
        "changesSinceLastChat": {},
        "shellConfigFiles": {},
        "systemInfo": {
            "platform": "linux",
            "shell": "bash",
            "nodeVersion": "v22.0.0",
            "arch": "x64",
            "homedir": "/home/someone",
            "cpus": 8,
        },
    }


def _part(number: int) -> Json:
    path = f"src/part{number}"
    files = [
        {"name": f"module{file}.ts", "type": "file", "filePath": f"{path}/module{file}.ts"} for file in range(_FILES)
    ]
    return _folder(f"part{number}", path, files)


def _folder(name: str, path: str, children: list[Json]) -> Json:
    return {"name": name, "type": "directory", "filePath": path, "children": children}

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from loop_fakes import Definition, Json

from patchbay_codebuff_ws.loop.definitions import may_spawn
from patchbay_codebuff_ws.loop.prompts import Prompts, file_tree, git_changes, knowledge, system_info, user_prompt
from patchbay_codebuff_ws.loop.prune import text_tokens
from patchbay_codebuff_ws.loop.state import Project
from patchbay_codebuff_ws.loop.tools import BUILT_IN

CONTEXT: Json = {
    "projectRoot": "/p",
    "cwd": "/p/sub",
    "fileTree": [
        {
            "name": "src",
            "type": "directory",
            "children": [{"name": "a.py", "type": "file"}, {"name": "b.py", "type": "file"}],
        },
        {"name": "knowledge.md", "type": "file"},
    ],
    "fileTokenScores": {"src/a.py": {"low": 1, "high": 9}},
    "knowledgeFiles": {"knowledge.md": "Use tabs.", "src/knowledge.md": "Deep."},
    "userKnowledgeFiles": {"~/knowledge.md": "Be kind."},
    "gitChanges": {"status": "M a.py", "diff": "+x", "diffCached": "", "lastCommitMessages": "First"},
    "systemInfo": {
        "platform": "linux",
        "shell": "bash",
        "nodeVersion": "v22",
        "arch": "x64",
        "homedir": "/h",
        "cpus": 8,
    },
}


def prompts(**more: Any) -> Prompts:
    return Prompts(
        definition=Definition(id="base", display_name="Base", **more),
        project=Project(CONTEXT),
        tools={"end_turn": BUILT_IN["end_turn"]},
        spawnable=[
            Definition(id="one", display_name="One", spawner_prompt="For tests.", input_schema={"params": {"a": 1}})
        ],
        prompt="Do {CODEBUFF_PROJECT_ROOT}",
        initial_prompt="First of all",
        remaining=lambda: 7,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("AGENT_NAME", "Base"),
        ("AGENTS_PROMPT", '## one: One\nFor tests.\nparams: {"a":1}'),
        ("CONFIG_SCHEMA", "fileChangeHooks"),
        ("FILE_TREE_PROMPT", "src/\n a.py high low\n b.py\nknowledge.md"),
        ("GIT_CHANGES_PROMPT", "<git_status>\nM a.py\n</git_status>\n<git_diff>\n+x\n</git_diff>\n<git_log>"),
        ("INITIAL_AGENT_PROMPT", "First of all"),
        ("KNOWLEDGE_FILES_CONTENTS", "Use tabs."),
        ("PROJECT_ROOT", "/p"),
        ("REMAINING_STEPS", "7"),
        ("SYSTEM_INFO_PROMPT", "Operating system: linux\nShell: bash"),
        ("TOOLS_PROMPT", "end_turn"),
        ("USER_CWD", "/p/sub"),
        # What is filled in is not filled in again: the user's words are the user's.
        ("USER_INPUT_PROMPT", "Do {CODEBUFF_PROJECT_ROOT}"),
        ("NO_SUCH", "{CODEBUFF_NO_SUCH}"),
    ],
)
def test_placeholders_are_filled_in(name: str, expected: str) -> None:
    assert expected in prompts().filled(f"<<{{CODEBUFF_{name}}}>>")


def test_no_more_is_filled_in_than_a_model_reads() -> None:
    few = dataclasses.replace(prompts(), prompt="x" * 1_000_000)
    text = few.filled("{CODEBUFF_USER_INPUT_PROMPT}" * 20 + "{CODEBUFF_USER_CWD}")
    assert 3_000_000 < len(text) < 5_000_000
    assert text.endswith("{CODEBUFF_USER_INPUT_PROMPT}/p/sub")
    began = time.thread_time()
    prompts().filled("{CODEBUFF_FILE_TREE_PROMPT}{CODEBUFF_GIT_CHANGES_PROMPT}" * 20_000)
    assert time.thread_time() - began < 1


def test_agents_are_described_once() -> None:
    assert prompts(system_prompt="A").system().count("## one") == 1
    assert prompts(system_prompt="A {CODEBUFF_AGENTS_PROMPT} B").system().count("## one") == 1


def test_knowledge_is_of_the_root_and_the_user_and_names_the_rest() -> None:
    text = knowledge(Project(CONTEXT))
    assert "Use tabs." in text
    assert "Be kind." in text
    assert "Deep." not in text
    assert "src/knowledge.md" in text


def test_nothing_is_said_of_what_is_not_there() -> None:
    empty = Project({})
    assert knowledge(empty) == ""
    assert git_changes(empty) == ""
    assert "not known" in file_tree(empty)
    assert system_info(empty) == "# The user's machine"


def test_a_large_tree_is_cut_from_below() -> None:
    files = [{"name": f"file_number_{number}.py", "type": "file"} for number in range(100)]
    tree = [
        {
            "name": f"d{number}",
            "type": "directory",
            "children": [{"name": "sub", "type": "directory", "children": files}],
        }
        for number in range(100)
    ]
    text = file_tree(Project({"fileTree": tree}))
    assert text_tokens(text) < 20_100
    assert "d99/" in text
    assert "sub/ (100 entries)" in text
    assert "file_number" not in text


def test_the_symbols_of_a_file_are_those_with_the_highest_scores() -> None:
    scores: dict[str, object] = {"b": 1, "a": 1.0, "c": 2.5, **{f"low{number}": 0 for number in range(20)}}
    tree = [{"name": "x.py", "type": "file"}]
    text = file_tree(Project({"fileTree": tree, "fileTokenScores": {"x.py": scores}}))
    assert "x.py c a b low0 low1 low10 low11 low12 low13 low14 low15 low16\n" in text
    odd = file_tree(Project({"fileTree": tree, "fileTokenScores": {"x.py": {"b": 1, "a": "no", "c": None, "d": 2}}}))
    assert "x.py d b a c\n" in odd


def test_a_large_diff_is_cut() -> None:
    assert len(git_changes(Project({"gitChanges": {"diff": "x" * 100_000}}))) < 31_000


def test_a_prompt_of_nothing_is_none() -> None:
    assert user_prompt("", None) == ""
    assert user_prompt("", {"a": 1}) == '<user_message>{"a":1}</user_message>'


@pytest.mark.parametrize(
    ("spawnable", "asked", "allowed"),
    [
        (["one"], "one", True),
        (["one"], "two", False),
        (["codebuff/one@1.0"], "one", True),
        (["one"], "codebuff/one@1.0", True),
        (["codebuff/one@1.0"], "codebuff/one@1.0", True),
        (["codebuff/one@1.0"], "codebuff/one@2.0", False),
        (["codebuff/one"], "other/one", False),
        ([], "one", False),
    ],
)
def test_publisher_and_version_count_where_both_name_them(spawnable: list[str], asked: str, allowed: bool) -> None:
    assert may_spawn(spawnable, asked) is allowed

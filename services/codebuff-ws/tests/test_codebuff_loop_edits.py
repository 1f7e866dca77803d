from __future__ import annotations

import time

import pytest

from patchbay_codebuff_ws.loop.edits import EditError, Replacement, replace_in, unified_diff, whole_file


def replaced(content: str, old: str, new: str, *, allow_multiple: bool = False) -> str:
    text, problems = replace_in(content, [Replacement(old, new, allow_multiple)])
    assert problems == []
    return text


@pytest.mark.parametrize(
    ("content", "old", "new", "expected"),
    [
        ("a b c\n", "b", "x", "a x c\n"),
        ("a b c\n", " b", "", "a c\n"),
        # Another indentation: deeper, none at all, tabs for spaces, and with lines that are empty.
        (
            "if a:\n        b()\n        c()\n",
            "    b()\n    c()",
            "    d()\n    e()",
            "if a:\n        d()\n        e()\n",
        ),
        ("  b()\n    c()\n", "b()\n  c()", "d()\n  e()", "  d()\n    e()\n"),
        ("\tb()\n\tc()\n", "    b()\n    c()", "    d()\n      e()", "\td()\n\t  e()\n"),
        ("  b()\n\n  c()\n", "b()\n\nc()", "d()\n\ne()", "  d()\n\n  e()\n"),
        ("    b()\n    c()\n", "        b()\n        c()", "        d()", "    d()\n"),
        # Any white space.
        ("f( a,\n   b )\n", "f(a, b)", "g()", "g()\n"),
        ("x =  1 ;y\n", "x = 1;", "x = 2;", "x = 2;y\n"),
        # Line ends stay, whatever the model writes.
        ("a\r\nb\r\nc\r\n", "a\nb", "x\ny", "x\r\ny\r\nc\r\n"),
        ("a\r\nb\r\n", "a\r\nb", "x\r\ny", "x\r\ny\r\n"),
        ("    a()\r\n    b()\r\n", "a()\nb()", "c()\nd()", "    c()\r\n    d()\r\n"),
        # What stands for a group in a regular expression stays as it is.
        ("a\n", "a", r"\1 \g<0>", "\\1 \\g<0>\n"),
    ],
)
def test_a_text_is_replaced(content: str, old: str, new: str, expected: str) -> None:
    assert replaced(content, old, new) == expected


def test_every_occurrence_is_replaced_only_when_that_is_meant() -> None:
    assert replaced("a a\n", "a", "b", allow_multiple=True) == "b b\n"
    assert replaced("  x\n  y\nz\n    x\n    y\n", "x\ny\n", "w\n", allow_multiple=True) == "  w\nz\n    w\n"
    with pytest.raises(EditError, match="2 occurrences"):
        replace_in("a a\n", [Replacement("a", "b")])


@pytest.mark.parametrize(
    ("content", "old", "said"),
    [
        (None, "a", "does not exist"),
        ("abc\n", "x", "not found"),
        ("abc\n", "", "empty"),
        ("  x\ny\n    x\n", "x ", "2 occurrences|not found"),
        ("abc\n", "   ", "not found"),
    ],
)
def test_what_cannot_be_replaced_is_told(content: str | None, old: str, said: str) -> None:
    with pytest.raises(EditError, match=said):
        replace_in(content, [Replacement(old, "new")])


def test_replacements_build_on_each_other_and_one_may_fail() -> None:
    text, problems = replace_in("a\n", [Replacement("a", "b"), Replacement("nothing", "x"), Replacement("b", "c")])
    assert text == "c\n"
    assert len(problems) == 1
    assert '"nothing" was not found' in problems[0]


def test_replacements_that_change_nothing_are_told() -> None:
    with pytest.raises(EditError, match="change nothing"):
        replace_in("a\n", [Replacement("a", "a")])


@pytest.mark.parametrize(
    ("before", "content", "expected"),
    [
        (None, "a", "a\n"),
        (None, "", ""),
        (None, "```python\na = 1\n```", "a = 1\n"),
        ("a\r\nb\r\n", "a\nc\n", "a\r\nc\r\n"),
        ("```\nx\n```\n", "```\ny\n```\n", "```\ny\n```\n"),
        # A comment that was there before leaves nothing out.
        ("# ... existing code ...\n", "# ... existing code ...\nx\n", "# ... existing code ...\nx\n"),
    ],
)
def test_a_file_is_written(before: str | None, content: str, expected: str) -> None:
    assert whole_file(before, content) == expected


@pytest.mark.parametrize("lazy", ["# ... existing code ...", "  // ... rest of the file", "<!-- ... unchanged ... -->"])
def test_a_file_with_parts_left_out_is_refused(lazy: str) -> None:
    with pytest.raises(EditError, match="leaves out"):
        whole_file("a\nb\n", f"a\n{lazy}\n")


def test_the_same_content_is_refused() -> None:
    with pytest.raises(EditError, match="already"):
        whole_file("a\r\n", "a\n")


def test_a_diff_shows_what_changed() -> None:
    assert unified_diff("f", "a\nb\n", "a\nc\n") == "@@ -1,2 +1,2 @@\n a\n-b\n+c"
    assert unified_diff("f", None, "a\n") == ""


def test_large_files_take_no_more_than_a_moment() -> None:
    blank = "\n" * 100_000
    started = time.monotonic()
    assert whole_file(None, f"a{blank}") == f"a{blank}"
    lines = "".join(f"  line {number}\n" for number in range(100_000))
    assert replaced(lines, "line 99998\nline 99999", "last").endswith("  line 99997\n  last\n")
    assert replaced("a b " * 250_000, "a  b", "c", allow_multiple=True) == "c " * 250_000
    assert time.monotonic() - started < 5


def test_a_text_that_begins_and_ends_with_code_is_in_no_fence() -> None:
    text = "```sh\nnpm start\n```\nand then\n```sh\nnpm stop\n```\n"
    assert whole_file(None, text) == text
    assert whole_file(None, f"```md\n# A\n{text}```") == f"# A\n{text}"

"""What the client's tools are called upstream, and back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchbay.canonical import CustomTool, FunctionTool, Tool
from patchbay.dialects.tool_names import ClientTool, ToolNames, UpstreamTool, has_longer_name

ALLOWED = re.compile("[a-zA-Z0-9_-]{1,64}")
FORBIDDEN = re.compile("[^a-zA-Z0-9_-]")


def function(name: str, namespace: str = "") -> Tool:
    return Tool(function=FunctionTool(name=name, namespace=namespace))


def custom(name: str, namespace: str = "") -> Tool:
    return Tool(custom=CustomTool(name=name, namespace=namespace))


def told(names: ToolNames, tool: Tool) -> UpstreamTool:
    if tool.HasField("custom"):
        return names.of(tool.custom.name, tool.custom.namespace, custom=True)
    return names.of(tool.function.name, tool.function.namespace)


def test_names_that_fit_stay() -> None:
    names = ToolNames([function("f"), custom("g")], 64, custom=True, namespaces=True)
    assert names.of("f") == UpstreamTool("f")
    assert names.of("g", custom=True) == UpstreamTool("g", is_custom=True)
    assert names.changed == {}


@pytest.mark.parametrize(
    ("tools", "names", "changed"),
    [
        ([function("f", "n")], ["n__f"], {"n__f": ClientTool("f", "n")}),
        ([custom("f")], ["f"], {"f": ClientTool("f", is_wrapped=True)}),
        ([custom("f", "n")], ["n__f"], {"n__f": ClientTool("f", "n", True)}),
    ],
)
def test_plain_upstreams(tools: list[Tool], names: list[str], changed: dict[str, ClientTool]) -> None:
    given_names = ToolNames(tools, 64)
    assert [told(given_names, tool).name for tool in tools] == names
    assert given_names.changed == changed


def test_a_call_without_its_namespace() -> None:
    """Codex leaves the namespace out of a call, and so do models, where there is one tool of that name."""
    names = ToolNames([custom("exec", "functions"), function("now", "clock"), function("now", "watch")], 64)
    assert names.of("exec", custom=True).name == "functions__exec"
    assert names.offers("exec", custom=True)
    assert not names.offers("exec")
    assert not names.offers("now")
    assert names.of("now").name == "now"


def test_the_order_of_calls_changes_no_name() -> None:
    tools = [function("f", "a"), custom("f"), function("f")]
    first, second = ToolNames(tools, 64), ToolNames(tools, 64)
    one = [told(first, tool) for tool in tools]
    first.of("gone")
    second.of("gone", custom=True)
    assert [told(second, tool) for tool in reversed(tools)] == one[::-1]


_words = st.sampled_from(["f", "g", "a__f", "f_", "é", "x" * 64, "x" * 65, "y" * 64])
_tools = st.lists(st.builds(function, _words, st.sampled_from(["", "a", "b"])) | st.builds(custom, _words), max_size=8)


@settings(max_examples=150, deadline=None)
@given(_tools, st.booleans(), st.booleans())
def test_no_two_tools_are_called_the_same(tools: list[Tool], has_custom: bool, has_namespaces: bool) -> None:
    names = ToolNames(tools, 64, FORBIDDEN, custom=has_custom, namespaces=has_namespaces)
    of_client: dict[UpstreamTool, ClientTool] = {}
    for tool in tools:
        upstream = told(names, tool)
        assert ALLOWED.fullmatch(upstream.name)
        kind = tool.custom if tool.HasField("custom") else tool.function
        client = ClientTool(kind.name, kind.namespace, tool.HasField("custom") and not has_custom)
        # What the answer's reader makes of the name.
        assert names.changed.get(upstream.name, ClientTool(upstream.name, upstream.namespace)) == client
        assert of_client.setdefault(upstream, client) == client


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"name":"abcd"}', False),
        ('{"name":"abcde"}', True),
        ('{"tools":[{"name":"a"},{"function":{ "name" :\n "abcde"}}]}', True),
        ('{"text":"\\"name\\":\\"abcdefgh\\""}', False),
        ('{"name":"\\u00e9\\u00e9"}', False),
        ('{"name":"\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9"}', True),
        ('{"name":7,"filename":"abcdefgh"}', False),
        ('{"name":{"name":"abcde"}}', True),
    ],
)
def test_whether_a_body_has_a_name_that_is_too_long(body: str, expected: bool) -> None:
    assert has_longer_name(body.encode(), 4) is expected

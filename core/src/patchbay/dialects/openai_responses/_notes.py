"""How an item or a tool of a request was written, where the canonical chat does not say: notes in its extensions.

With them a request is written back item by item as it came. Next to the notes stand the fields of the content part or
tool that no canonical field covers, under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from patchbay.dialects.json_text import Object

# Of the first block of an item, or of a user's message: the fields of the item that no canonical field covers.
ITEM: Final = "item"
# Of an opaque block: it is a content part, not an item.
PART: Final = "part"
# Of a block of the system prompt: it was the request's `instructions`.
INSTRUCTIONS: Final = "instructions"
# Of a tool: it came in an input item; where the item stood, and its fields.
ADDITIONAL_TOOLS: Final = "additional_tools"
# In that note: the item's place in the input.
PLACE: Final = "at"
# Of an opaque tool: the namespace it belongs to. Of the first tool of a namespace: the group's further fields.
NAMESPACE: Final = "namespace"
GROUP: Final = "group"

_ALL = frozenset({ITEM, PART, INSTRUCTIONS, ADDITIONAL_TOOLS, NAMESPACE, GROUP})


def without_notes(rest: Mapping[str, bytes]) -> Object:
    """A client's own fields, none of which may pass for a note."""
    return {name: value for name, value in rest.items() if name not in _ALL}

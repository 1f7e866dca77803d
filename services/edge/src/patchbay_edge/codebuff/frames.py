"""A client's frames, each kept until no replica needs it any more."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from patchbay_proto.v1.codebuff_pb2 import ClientFrame

# So much of a frame's text is written at a time: gRPC copies and sends a message in one go, and all others wait for it.
_PIECE_BYTES = 256 * 1024
# What a frame takes beside its text.
_OVERHEAD_BYTES = 200


@dataclass(slots=True)
class Frame:
    """One frame.

    Attributes:
        prompt_id: Of the prompt that it is; empty: not known to be one.
        data: Its text in UTF-8, which takes the least memory.
        acknowledged: Whether a replica has acknowledged it for certain.
        attempts: How often it was written to a replica.
    """

    number: int
    data: bytes
    prompt_id: str = ""
    acknowledged: bool = False
    attempts: int = 0

    @property
    def size(self) -> int:
        return len(self.data) + _OVERHEAD_BYTES


class Budget:
    """What an edge may keep of its clients' frames, of all sockets together."""

    __slots__ = ("_most", "used")

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self.used = 0

    @property
    def is_exceeded(self) -> bool:
        return self.used > self._most


class Frames:
    """What one client has sent and no replica is done with."""

    __slots__ = (
        "_begun",
        "_budget",
        "_coming",
        "_last",
        "_said",
        "_unsent",
        "_waiting",
        "size",
        "undone",
        "undone_size",
    )

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        # What is there of a frame that has not come to its end.
        self._coming = 0
        self._last = 0
        # By number, in order.
        self._waiting: dict[int, Frame] = {}
        # None: none. An empty deque takes 600 bytes, and most sockets are idle.
        self._unsent: deque[Frame] | None = None
        # The frame that is written in part, and how much of it.
        self._begun: tuple[Frame, int] | None = None
        # The prompts that have said something and not ended, in order. Their frames are not needed any more.
        self._said: dict[str, None] = {}
        self.size = 0
        # Those which are not known to be prompts.
        self.undone = 0
        self.undone_size = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._waiting and not self._said

    @property
    def lost_prompts(self) -> list[str]:
        """The prompts that cannot be begun anew."""
        return list(self._said)

    def __len__(self) -> int:
        return len(self._waiting)

    def coming(self, size: int) -> None:
        """Notes how much is there of the frame that `add` takes next."""
        if size > self._coming:
            self._budget.used += size - self._coming
            self._coming = size

    def add(self, data: bytes) -> None:
        """Takes a frame of the client's."""
        self._budget.used -= self._coming
        self._coming = 0
        self._last += 1
        frame = self._waiting[self._last] = Frame(self._last, data)
        if self._unsent is None:
            self._unsent = deque()
        self._unsent.append(frame)
        self._grow(frame.size)
        self.undone += 1
        self.undone_size += frame.size

    def next(self) -> ClientFrame | None:
        """What is to be written to the replica next, a frame or a piece of one, and counts the attempt."""
        if self._begun is not None:
            return self._piece(*self._begun)
        while self._unsent:
            frame = self._unsent.popleft()
            if frame.number in self._waiting:
                frame.attempts += 1
                return self._piece(frame, 0)
        self._unsent = None
        return None

    def _piece(self, frame: Frame, start: int) -> ClientFrame:
        end = _cut(frame.data, start + _PIECE_BYTES)
        continued = end < len(frame.data)
        self._begun = (frame, end) if continued else None
        return ClientFrame(
            number=frame.number,
            text=frame.data[start:end],  # type: ignore[arg-type]  # protobuf takes UTF-8 for a string
            again=frame.attempts > 1,
            acknowledged=frame.acknowledged,
            continued=continued,
        )

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent) or self._begun is not None

    def rewind(self) -> int:
        """Has everything be written again, to another replica; how often any of it was written."""
        self._begun = None
        self._unsent = deque(self._waiting.values()) if self._waiting else None
        return max((frame.attempts for frame in self._waiting.values()), default=0)

    def done(self, number: int) -> None:
        """All up to `number` are done but the prompts."""
        for frame in list(self._waiting.values()):
            if frame.number > number:
                break
            if not frame.prompt_id:
                self._drop(frame)

    def prompt_begun(self, number: int, prompt_id: str) -> None:
        """A frame is a prompt, and acknowledged."""
        frame = self._waiting.get(number)
        if frame is None:
            return
        if not frame.prompt_id:
            self.undone -= 1
            self.undone_size -= frame.size
        frame.prompt_id = prompt_id
        frame.acknowledged = True

    def prompt_said(self, prompt_id: str) -> None:
        """A prompt has said something that cannot be said twice."""
        if prompt_id not in self._said:
            self._forget(prompt_id)
            self._said[prompt_id] = None
            # Its name is the client's own, of any length.
            self._grow(len(prompt_id))

    def prompt_ended(self, prompt_id: str) -> None:
        if prompt_id in self._said:
            del self._said[prompt_id]
            self._grow(-len(prompt_id))
        self._forget(prompt_id)

    def _grow(self, size: int) -> None:
        self.size += size
        self._budget.used += size

    def give_back(self) -> None:
        """Frees what all of it takes of the budget: the client is gone."""
        self._budget.used -= self.size + self._coming

    def _forget(self, prompt_id: str) -> None:
        for frame in list(self._waiting.values()):
            if frame.prompt_id == prompt_id:
                self._drop(frame)

    def _drop(self, frame: Frame) -> None:
        del self._waiting[frame.number]
        self._grow(-frame.size)
        if not frame.prompt_id:
            self.undone -= 1
            self.undone_size -= frame.size


def _cut(data: bytes, end: int) -> int:
    """Where a piece of UTF-8 that is to end there, or a little earlier, may end."""
    if end >= len(data):
        return len(data)
    while data[end] & 0b1100_0000 == 0b1000_0000:
        end -= 1
    return end

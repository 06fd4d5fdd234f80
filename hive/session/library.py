"""What peers may fetch from a coordinator, by the SHA-256 of its content."""
from __future__ import annotations

from collections import OrderedDict
from typing import Any, Callable, List, NamedTuple, Optional

from hive.session.schema import Content

REMEMBERED_UPDATES = 16  # rounds that a returning peer may have missed and still catch up with


class Found(NamedTuple):
    what: Content
    content: bytes


class Library:
    """The text, the newest weights that were asked for, and the latest updates."""

    def __init__(self, text: str, read_text: Callable[[], bytes],
                 pack_weights: Callable[[Any], bytes]):
        self.text, self.read_text, self.pack_weights = text, read_text, pack_weights
        self.read = b""  # of the text, once somebody wants it
        self.weights, self.whole = "", b""  # their name, and what is in them
        self.updates: OrderedDict[str, bytes] = OrderedDict()

    def __contains__(self, update: str) -> bool:
        return update in self.updates

    def find(self, blob: str) -> Optional[Found]:
        if blob == self.text:
            self.read = self.read or self.read_text()
            return Found("text", self.read)
        if blob == self.weights:
            return Found("weights", self.whole)
        content = self.updates.get(blob)
        return None if content is None else Found("update", content)

    def offer_weights(self, name: str, weights: Any) -> None:
        """One copy, however many download it."""
        if name != self.weights:
            self.weights, self.whole = name, self.pack_weights(weights)

    def remember(self, update: str, content: bytes) -> List[str]:
        """Returns which ones are forgotten for it."""
        self.updates[update] = content
        self.updates.move_to_end(update)
        forgotten = []
        while len(self.updates) > REMEMBERED_UPDATES:
            forgotten.append(self.updates.popitem(last=False)[0])
        return forgotten

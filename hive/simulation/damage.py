"""What a bad network does to what arrives: flips a bit, sends it twice or out of order."""
from __future__ import annotations

import random
from typing import Any, Callable, Dict, List

from hive.session.protocol import ProtocolError, unpack
from hive.simulation.hive import CLOSED, Connection, packed
from hive.simulation.trouble import Trouble
from hive.simulation.virtual import Piece

HANDSHAKE = ("challenge", "hello", "welcome")


class Damage:
    """To all that arrives at one host, which takes it with `take`."""

    def __init__(self, trouble: Trouble, take: Callable[[Connection, Any], None]):
        self.trouble, self.take = trouble, take
        self.held_back: Dict[Connection, Any] = {}

    def arrive(self, connection: Connection, item: Any) -> None:
        for one in self.disturbed(connection, item):
            self.take(connection, one)

    def disturbed(self, connection: Connection, item: Any) -> List[Any]:
        items, trouble, coming = [item], self.trouble, self.trouble.disturbances
        if item == CLOSED:
            return items
        if connection in self.held_back:
            items.append(self.held_back.pop(connection))
            trouble.cover("out of order")
        elif coming["out of order"]:
            coming["out of order"] -= 1
            self.held_back[connection] = item
            trouble.clock.after(1.0, self.let_go, connection, item)
            return []
        if coming["twice"]:
            coming["twice"] -= 1
            trouble.cover("twice")
            items.append(item)
        if coming["bit flipped"]:
            coming["bit flipped"] -= 1
            items[0] = self.with_a_bit_flipped(item)
        return items

    def let_go(self, connection: Connection, item: Any) -> None:
        """Nothing came that it could have come after."""
        if self.held_back.get(connection) is item:
            del self.held_back[connection]
            self.take(connection, item)

    def with_a_bit_flipped(self, item: Any) -> Any:
        """Anywhere in a chunk or message, but so that somebody could notice."""
        if isinstance(item, Piece):
            self.trouble.cover("bit flipped in a chunk")
            return Damaged(*item).at(self.trouble.dice)
        self.trouble.cover("bit flipped in a message")
        sent = came = packed(item)
        while came == sent or is_plausible(sent, came):
            came = flipped(sent.encode(), self.trouble.dice).decode(errors="replace")
        return came


class Damaged(Piece):
    """With a bit that is not what was sent, in the header or in the content."""

    def at(self, dice: random.Random) -> Damaged:
        self.damaged = flipped(super().message, dice)
        return self

    @property
    def message(self) -> bytes:
        return self.damaged


def flipped(content: bytes, dice: random.Random) -> bytes:
    changed = bytearray(content)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def is_plausible(sent: str, came: str) -> bool:
    """Is it a message with another number, or of another conversation? Nothing in the protocol
    tells that from the one that was sent."""
    try:
        changed = unpack(came)
    except ProtocolError:
        return False
    return changed["type"] in HANDSHAKE or any(
        value != changed[name] and not isinstance(value, str)
        for name, value in unpack(sent).items())

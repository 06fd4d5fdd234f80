"""A peer's updates whose fate it does not know yet, and what it says of them."""
from __future__ import annotations

import math
from typing import Iterator, List, Union

from hive.session import messages
from hive.session.effects import Tell, Upload
from hive.session.update import Outgoing

Said = Iterator[Union[Tell, Upload]]


class Offers:
    """In order, each of another part of the weights."""

    def __init__(self) -> None:
        self.updates: List[Outgoing] = []

    @property
    def tokens(self) -> int:
        """That went into them."""
        return sum(one.work.tokens for one in self.updates)

    @property
    def parts(self) -> List[slice]:
        return [one.part for one in self.updates]

    def of(self, version: int) -> List[Outgoing]:
        """That of the round which starts from this version."""
        return [one for one in self.updates if one.version == version]

    def add(self, update: Outgoing) -> None:
        self.updates.append(update)
        self.updates.sort(key=lambda one: one.version)

    def free(self, version: int) -> int:
        """The first version from this one on whose round has none. That of a later one may be there
        already, if the one before it came too late for a coordinator that began again."""
        while self.of(version):
            version += 1
        return version

    def awaited(self, version: int) -> bool:
        """Is there one whose fate it will hear, for the round from this version or before?"""
        return any(one.version <= version for one in self.updates)

    def begin_again(self) -> None:
        """All are to be offered, each when the one before is on the wire."""
        for one in self.updates:
            one.told = False

    def go_on(self, now: float, follows: bool) -> Said:
        """Offer what is not offered yet, as far as what comes before is on the wire. `follows`: do
        not wait until it is wanted."""
        for one in self.updates:
            if not one.told:
                yield Tell(one.offer(now, follows))
                if follows:
                    yield self._upload(one, 0)
            if not one.sent:
                break

    def send(self, said: messages.Send) -> Said:
        """Upload the offered update, from where an interrupted transfer stopped."""
        for place, one in enumerate(self.updates):
            if one.blob == said["blob"] and (one.eager or not one.sent):
                for later in self.updates[place + 1:] if one.eager else ():
                    later.told = False  # they were dropped, too
                one.eager = False  # it had to wait
                yield self._upload(one, said["offset"])

    def _upload(self, one: Outgoing, offset: int) -> Upload:
        one.offered, one.sent = math.inf, True
        return Upload(one.blob, one.update, offset)

    def uploaded(self, blob: str, now: float) -> None:
        """All of it is on the wire."""
        for one in self.updates:
            if one.sent and one.blob == blob:
                one.offered = now

    def wait(self, seconds: float) -> None:
        """So long this peer listened to nothing that was said of them."""
        for one in self.updates:
            one.offered += seconds

    def unheard(self, since: float) -> bool:
        """Is there one that nobody has said anything about since then?"""
        return any(one.offered < since for one in self.updates)

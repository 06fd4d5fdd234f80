"""What the coordinator's session answers to what it was told: effects, in order."""
from __future__ import annotations

from typing import Any, List

from hive.session.effects import CoordinatorEffect, Event, Fail, Finish, Moment, Say, Send
from hive.session.log import Log
from hive.session.messages import FromCoordinator
from hive.session.schema import EventKind

LINES, LINES_RATE = 100, 1.0  # of each kind in the log: at once, and a second in the long run


class Reply:
    def __init__(self) -> None:
        self.now = Moment(0.0, 0.0)  # when it was told
        self.effects: List[CoordinatorEffect] = []
        self.log = Log(LINES, LINES_RATE)
        self.over = False  # the run is; nothing follows any more

    def take(self) -> List[CoordinatorEffect]:
        effects, self.effects = self.effects, []
        return effects

    def add(self, effect: CoordinatorEffect) -> None:
        self.effects.append(effect)

    def send(self, link: int, kind: FromCoordinator, **values: Any) -> None:
        self.add(Send(link, {"type": kind, **values}))

    def show(self, kind: EventKind, **fields: Any) -> None:
        """On the dashboard."""
        self.add(Event(kind, fields))

    def say(self, kind: str, text: str) -> None:
        """A line in the log, unless there were too many of this kind lately."""
        line = self.log.line(kind, text, self.now.steady)
        if line is not None:
            self.add(Say(kind, line))

    def finish(self, reason: str) -> None:
        self.add(Finish(reason))
        self.over = True

    def fail(self, error: Exception) -> None:
        self.add(Fail(error))
        self.over = True

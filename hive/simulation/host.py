"""A host in virtual time: it tells its session what happens, and does what the session wants."""
from __future__ import annotations

import math
from collections import deque
from typing import Any, Callable, Deque, Dict, Literal, Tuple

from gltch_2_7m import GltchError
from hive.session import effects
from hive.session.effects import Do, Moment
from hive.simulation.virtual import Clock

BEGINNING = 1.7e9  # unix seconds
Happening = Literal["begin", "connected", "admitted", "heard", "chunk", "broken", "lost", "done",
                    "failed", "wake", "stepped", "caught_up", "broke_down", "uploaded", "stop"]


class Host:
    """Tells a session what happens, one thing at a time, and carries out what it answers."""

    session: Any

    def __init__(self, clock: Clock):
        self.clock = clock
        self.calls: Deque[Tuple[Happening, Tuple[Any, ...], Dict[str, Any]]] = deque()
        self.telling = False
        self.alarm = math.inf  # when the clock wakes the session
        self.lanes: Dict[effects.Lane, Deque[Do]] = {}
        self.doing: Dict[type, Callable[[Any], None]] = {effects.Do: self.line_up}
        self.slow_work: Dict[effects.Work, Callable[..., Any]] = {}

    def moment(self) -> Moment:
        return Moment(self.clock.now, BEGINNING + self.clock.now)

    def tell(self, what: Happening, *values: Any, **more: Any) -> None:
        calls = self.calls
        calls.append((what, values, more))
        if self.telling:
            return
        self.telling = True
        while calls:
            what, values, more = calls.popleft()
            for effect in getattr(self.session, what)(*values, self.moment(), **more):
                self.carry_out(effect)
        self.telling = False
        self.set_alarm()

    def carry_out(self, effect: Any) -> None:
        self.doing[type(effect)](effect)

    def set_alarm(self) -> None:
        deadline = self.session.deadline
        if deadline < self.alarm:
            self.alarm = max(self.clock.now, deadline)
            self.clock.at(self.alarm, self.ring, self.session)

    def ring(self, session: Any) -> None:
        if session is not self.session or self.clock.now != self.alarm:
            return  # the alarm was set to an earlier time since
        self.alarm = math.inf
        if session.deadline <= self.clock.now:
            self.tell("wake")
        else:
            self.set_alarm()

    # Slow work: one after the other in each lane

    def line_up(self, do: Do) -> None:
        lane = self.lanes.setdefault(do.lane, deque())
        lane.append(do)
        if len(lane) == 1:
            self.start(do)

    def start(self, do: Do) -> None:
        seconds = self.seconds_of(do)
        if seconds:
            self.clock.after(seconds, self.work, do)
        else:
            self.work(do)

    def seconds_of(self, do: Do) -> float:
        return 0.0

    def work(self, do: Do) -> None:
        """Do it, tell the result, go on with what is next in its lane."""
        lane = self.lanes.get(do.lane)
        if not lane or lane[0] is not do:
            return  # who wanted it is gone
        try:
            result = self.slow_work[do.what](*do.values)
        except GltchError as error:
            self.tell_end("failed", do.ticket, error)
        else:
            self.tell_end("done", do.ticket, result)
        if lane and lane[0] is do:
            lane.popleft()
            if lane:
                self.start(lane[0])

    def tell_end(self, how: Literal["done", "failed"], ticket: int, result: Any) -> None:
        self.tell(how, ticket, result)

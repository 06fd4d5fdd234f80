"""Slow work that the coordinator's session asked for: what its end leads to, and what is tried
again until the disk takes it."""
from __future__ import annotations

import math
from collections import deque
from functools import partial
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

from gltch_2_7m import GltchError, Unwritable
from hive.session.effects import CoordinatorWork, Do, Lane
from hive.session.reply import Reply

RETRY_SECONDS = 2.0  # until what could not be written is tried again
UPDATES: Lane = "updates"
EVALUATIONS: Lane = "evaluations"
PROBES: Lane = "probes"


class Work(NamedTuple):
    """What the end of slow work leads to."""

    then: Callable[[Any], None]
    unwritable: Callable[[Unwritable], None]
    rejected: Callable[[GltchError], None]


class Writing(NamedTuple):
    """What has to be written, sooner or later, and what that leads to."""

    name: str  # for people
    lane: Lane
    what: CoordinatorWork
    values: Tuple[Any, ...]
    then: Callable[[], None]


class SlowWork:
    def __init__(self, reply: Reply):
        self.reply = reply
        self.ticket = 0
        self.under_way: Dict[int, Work] = {}
        self.retries: Deque[Tuple[float, Writing]] = deque()  # the earliest first
        self.unwritten: Dict[str, str] = {}  # what waits until it can be written, and why

    @property
    def deadline(self) -> float:
        """When something is to be tried again."""
        return self.retries[0][0] if self.retries else math.inf

    def ask(self, lane: Lane, what: CoordinatorWork, *values: Any, then: Callable[[Any], None],
            unwritable: Optional[Callable[[Unwritable], None]] = None,
            rejected: Optional[Callable[[GltchError], None]] = None) -> None:
        self.ticket += 1
        fail = self.reply.fail
        self.under_way[self.ticket] = Work(then, unwritable or fail, rejected or fail)
        self.reply.add(Do(self.ticket, lane, what, values))

    def done(self, ticket: int, result: Any) -> None:
        self.under_way.pop(ticket).then(result)

    def failed(self, ticket: int, error: GltchError) -> None:
        work = self.under_way.pop(ticket)
        if isinstance(error, Unwritable):
            work.unwritable(error)
        else:
            work.rejected(error)

    def write(self, writing: Writing) -> None:
        """Have something written; while the disk does not take it, try again and again."""
        self.ask(writing.lane, writing.what, *writing.values, then=partial(self._written, writing),
                 unwritable=partial(self._try_later, writing))

    def _written(self, writing: Writing, _: None) -> None:
        if self.unwritten.pop(writing.name, ""):
            self.reply.say("goes on", f"the {writing.name} is written")
        writing.then()

    def _try_later(self, writing: Writing, error: Unwritable) -> None:
        reason = f"{error} The run goes on when there is room."
        if self.unwritten.get(writing.name) != reason:
            self.unwritten[writing.name] = reason
            self.reply.say("waiting", reason)
        self.retries.append((self.reply.now.steady + RETRY_SECONDS, writing))

    def retry(self) -> None:
        while self.deadline <= self.reply.now.steady:
            self.write(self.retries.popleft()[1])

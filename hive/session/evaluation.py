"""When a coordinator measures the newest weights, what that led to, and what is kept of it."""
from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

from hive.session.job import Limits
from hive.session.reply import Reply
from hive.session.work import EVALUATIONS, SlowWork, Writing

EVALUATION_SHARE = 0.25  # of the time may go into evaluations while the run goes on


class Measurement(NamedTuple):
    """An evaluation that is being made."""

    version: int
    step: int
    began: float


class Evaluation:
    """`past` are all (version, validation loss) so far. With `every` the weights are measured each
    time that many rounds are made, otherwise whenever there is time. `ended` is called after each.
    """

    def __init__(self, past: List[Tuple[int, float]], limits: Limits, every: Optional[int],
                 reply: Reply, work: SlowWork, ended: Callable[[], None]):
        self.target, self.every = limits.target_loss, every
        self.reply, self.work, self.ended = reply, work, ended
        self.evaluated, self.val_loss = past[-1] if past else (-1, math.nan)
        self.best = min((loss for _, loss in past), default=math.inf)
        self.measuring: Optional[Measurement] = None
        self.at = -math.inf  # steady seconds: not before

    def waits(self, version: int) -> bool:
        """Are there weights to measure that have not been measured?"""
        return (not self.measuring and version != self.evaluated
                and (self.every is None or version > 0 and version % self.every == 0))

    def begin(self, weights: Any, version: int, step: int) -> None:
        """Validation loss, a sample and a checkpoint of the weights as they are now."""
        self.measuring = Measurement(version, step, self.reply.now.steady)
        self.work.ask(EVALUATIONS, "evaluate", weights, version, step,
                      then=partial(self._keep, self.measuring))

    def _keep(self, about: Measurement, result: Tuple[float, float, str, Any]) -> None:
        self.val_loss, seconds, text, state = result
        names = ["best.pt", "last.pt"] if self.val_loss < self.best else ["last.pt"]
        checkpoint = Writing("checkpoint", EVALUATIONS, "keep_checkpoint", (state, names),
                             partial(self._end, about, text))
        self.work.write(Writing("evaluation", EVALUATIONS, "keep_evaluation",
                                (about.version, self.val_loss, seconds, text),
                                partial(self.work.write, checkpoint)))

    def _end(self, about: Measurement, text: str) -> None:
        self.measuring, self.evaluated = None, about.version
        self.best = min(self.best, self.val_loss)
        self.reply.show("evaluated", version=about.version, step=about.step,
                        val_loss=self.val_loss, best_val_loss=self.best, text=text)
        if self.every is None:  # so that evaluations take no more than a share of the time
            now, share = self.reply.now.steady, EVALUATION_SHARE if self.target is None else 1.0
            self.at = now + (now - about.began) * (1 / share - 1)
        self.ended()

    def good_enough(self, val_loss: float) -> str:
        """Why the run is over with this loss; empty if it is not."""
        if self.target is None or not val_loss <= self.target:
            return ""
        return f"the target loss of {self.target:g} is reached, with {val_loss:.4f}"

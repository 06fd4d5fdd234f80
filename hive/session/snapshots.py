"""When a coordinator writes its weights as a whole. That only shortens the way back after a
restart: when it cannot be written, the next round tries again."""
from __future__ import annotations

from gltch_2_7m import Unwritable
from hive.session.work import UPDATES, SlowWork

SNAPSHOT_EVERY = 10  # rounds for each part of the weights


class Snapshots:
    def __init__(self, work: SlowWork, fragments: int):
        self.work, self.every = work, SNAPSHOT_EVERY * fragments
        self.due = self.saving = False

    def after_round(self, number: int) -> None:
        """While the peers train."""
        self.due = self.due or number % self.every == 0
        if self.due and not self.saving:
            self.saving = True
            self.work.ask(UPDATES, "snapshot", then=self._saved, unwritable=self._not_saved)

    def _saved(self, _: None) -> None:
        self.saving = self.due = False

    def _not_saved(self, error: Unwritable) -> None:
        self.saving = False
        self.work.reply.say("snapshot", f"{error} The next round tries again.")

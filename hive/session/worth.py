"""Does the hive pay? It notices when its fastest peer alone would make more than all together."""
from __future__ import annotations

from typing import Iterable

from hive.session.links import Link
from hive.session.standing import RECENT, Standing

CLEARLY = 1.05  # times as fast, before it is said again


class Worth:
    """`overlap`: peers of this hive train on while updates travel."""

    def __init__(self, overlap: bool) -> None:
        self.overlap = overlap
        self.costs = False  # as far as it was said

    def judge(self, standing: Standing, links: Iterable[Link]) -> str:
        """After a round: a sentence if from now on the hive costs more than it brings, or empty."""
        fastest = max(links, key=lambda link: link.speed, default=None)
        known = len(standing.recent) == RECENT and fastest and len(fastest.laps) == RECENT
        if not fastest or not known:
            return ""
        speedup, before = standing.speed / max(fastest.speed, 1e-9), self.costs
        self.costs = speedup < (CLEARLY if before else 1.0)
        if before or not self.costs:
            return ""
        name, alone = fastest.identity.name, fastest.speed
        advice = "" if self.overlap else (" A run with --sync streaming never stops training for "
                                          "them.")
        return (f"The hive makes {standing.speed:,.0f} characters a second; {name} alone would "
                f"make {alone:,.0f}: waiting and sending cost more than the others bring.{advice}")

"""Faults by the thousand: the hive's own sessions in virtual time, broken in every way, by a seed.

A run has a few peers with tiny weights, a few kinds of fault at a few moments, and a quiet end.
What must hold is looked at after every event.
"""
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Optional, Sequence

from hive.simulation.faulty import ENDLESS, WITHOUT_CACHE, FaultyHive, Peer
from hive.simulation.hive import Connection
from hive.simulation.truth import must
from hive.simulation.virtual import UNNOTICED_SECONDS

PATIENCE = 1800.0  # virtual seconds in which all must be well again, once faults stop
MOST_PEERS = 6  # with clones
MOST_EVENTS = 500_000  # of a run that never ends
HOUR = 3600.0
UNHURRIED = 15  # times as long are steps once somebody sleeps for an hour, so that rounds are few
LAST_FAULT = 900  # events before it, at most
SHORT = 0.3  # of these in a run of a few rounds, so that it is not over before


# --------------------------------------------------------------------------------------------------
# The kinds of fault
# --------------------------------------------------------------------------------------------------

def somebody(hive: FaultyHive) -> Peer:
    return hive.trouble.dice.choice(hive.peers)


def cut(hive: FaultyHive) -> None:
    """Sometimes one direction breaks a little earlier than the other."""
    peer, by_peer, by_coordinator = somebody(hive), hive.trouble.noticed(), hive.trouble.noticed()
    connection = peer.connection
    if connection is None:
        return
    hive.trouble.cover(f"cut, noticed after {by_peer:g} s by the peer, {by_coordinator:g} s by the "
               "coordinator")
    if hive.trouble.dice.random() < 0.3:
        hive.trouble.cover("cut, one direction first")
        hive.trouble.dice.choice((connection.up, connection.down)).cut()
        seconds = hive.trouble.dice.uniform(0.0, 5.0)
        hive.trouble.until(hive.clock.now + seconds + UNNOTICED_SECONDS)
        hive.clock.after(seconds, finish_cut, peer, connection, by_coordinator, not by_peer)
    else:
        peer.cut(by_coordinator, not by_peer)


def finish_cut(peer: Peer, connection: Connection, coordinator: float, at_once: bool) -> None:
    if connection is peer.connection:
        peer.cut(coordinator, at_once)


def cut_all(hive: FaultyHive) -> None:
    """And all come back at the same moment."""
    hive.trouble.cover("all back at once")
    for peer in hive.peers:
        if peer.connection:
            peer.cut(hive.trouble.noticed(), at_once=False)
            peer.hang_up()
            peer.tell("lost")
        hive.clock.after(3.0, peer.connect)


def kill_peer(hive: FaultyHive) -> None:
    somebody(hive).fuse = hive.trouble.dice.randint(1, 12)


def kill_peer_and_cache(hive: FaultyHive) -> None:
    """At once or between two effects; sometimes because its disk is full, and then there is no
    cache for a while."""
    peer, newer = somebody(hive), hive.trouble.newer
    peer.cache_dies = True
    if hive.trouble.more.random() < 0.3:
        peer.full_until = hive.clock.now + 300.0
    if newer.random() < 0.5:
        peer.die(WITHOUT_CACHE)
    else:
        peer.fuse = newer.randint(1, 12)


def kill_coordinator(hive: FaultyHive) -> None:
    """Sometimes its disk is full, perhaps still when it is started again."""
    hive.coordinator.fuse = hive.trouble.dice.randint(1, 40)
    newer = hive.trouble.newer
    if newer.random() < 0.2:
        hive.disk.fill(newer.uniform(20.0, 120.0), 1.0)


def kill_when_kept(hive: FaultyHive) -> None:
    hive.coordinator.dies_when_kept = True


def clone(hive: FaultyHive) -> None:
    """Somebody starts a second process with the same identity, sometimes just as the first has an
    update on its way and loses its connection: then the second may be there first."""
    if len(hive.peers) == MOST_PEERS:
        return
    hive.trouble.cover("two processes with one token")
    hive.truth.cloned = True
    first = somebody(hive)
    more = hive.trouble.more
    if more.random() < 0.5:
        first = more.choice([one for one in hive.peers if one.session.offers.updates] or [first])
        if first.connection:
            hive.trouble.cover("a second process came as the first lost its connection")
            first.cut(more.choice((0.0, 0.0, UNNOTICED_SECONDS)), at_once=more.random() < 0.7)
    peer = Peer(hive, len(hive.peers), first)
    peer.step_seconds = first.step_seconds  # of the same machine
    hive.peers.append(peer)
    peer.connect()


def fill_disk(hive: FaultyHive) -> None:
    dice = hive.trouble.dice
    hive.disk.fill(dice.uniform(0.5, 60.0), dice.choice((0.03, 0.3, 1.0)))


def disturb(kind: str, hive: FaultyHive) -> None:
    hive.trouble.disturbances[kind] += hive.trouble.dice.randint(1, 3)


def set_clock_of_peer(hive: FaultyHive) -> None:
    hive.trouble.cover("clock of a peer set by a day")
    somebody(hive).set_by += hive.trouble.dice.choice((-86400.0, 86400.0))


def set_clock_of_coordinator(hive: FaultyHive) -> None:
    hive.trouble.cover("clock of the coordinator set by a day")
    hive.set_by += hive.trouble.dice.choice((-86400.0, 86400.0))


def suspend(hive: FaultyHive) -> None:
    """One, some or all, for minutes or an hour; the coordinator finds them dead or not."""
    dice = hive.trouble.dice
    seconds = dice.choice((90.0, 150.0, 240.0, HOUR))
    peers = dice.sample(hive.peers, dice.choice((1, 1, 2, len(hive.peers))))
    who = {1: "a peer", len(hive.peers): "all peers"}.get(len(peers), "some peers")
    hive.trouble.cover(f"{who} suspended for {'minutes' if seconds < HOUR else 'an hour'}")
    if seconds == HOUR and not hive.unhurried:
        hive.unhurried = True
        for peer in hive.peers:
            peer.step_seconds = max(peer.step_seconds, min(
                UNHURRIED * peer.step_seconds, UNNOTICED_SECONDS / 2))
    for peer in peers:
        sleep(hive, peer, seconds)
        if peer.connection and dice.random() < 0.5:
            peer.cut(UNNOTICED_SECONDS, at_once=False)


def doze(hive: FaultyHive) -> None:
    hive.trouble.cover("peer suspended for some rounds")
    sleep(hive, somebody(hive), hive.trouble.dice.uniform(2.0, 60.0))


def sleep(hive: FaultyHive, peer: Peer, seconds: float) -> None:
    peer.asleep = max(peer.asleep, hive.clock.now + seconds)
    hive.trouble.until(peer.asleep)


def nonsense(hive: FaultyHive) -> None:
    somebody(hive).nonsense = True


def breakdown(hive: FaultyHive) -> None:
    somebody(hive).breakdown = True


FAULTS: Dict[str, Callable[[FaultyHive], None]] = {
    "cut": cut, "all back at once": cut_all, "peer killed": kill_peer,
    "peer and cache killed": kill_peer_and_cache, "coordinator killed": kill_coordinator,
    "coordinator killed after a commit": kill_when_kept, "two processes": clone,
    "disk full": fill_disk, "clock of a peer": set_clock_of_peer,
    "clock of the coordinator": set_clock_of_coordinator, "suspended": suspend, "late": doze,
    "nonsense": nonsense, "breakdown": breakdown,
    **{kind: partial(disturb, kind) for kind in ("bit flipped", "twice", "out of order")}}


# --------------------------------------------------------------------------------------------------
# A run
# --------------------------------------------------------------------------------------------------

class Trial(FaultyHive):
    """One run under the faults of a seed, but for those of some kinds."""

    def __init__(self, seed: int, without: FrozenSet[str] = frozenset(),
                 folder: Optional[Path] = None, attackers: Sequence[str] = ()):
        super().__init__(seed, folder, attackers)
        draw = self.trouble.dice
        drawn = draw.sample(sorted(FAULTS), draw.randint(1, 4))
        plan = sorted((draw.randrange(40, LAST_FAULT), kind)
                      for kind in drawn for _ in range(draw.randint(1, 4)))
        short = 1.0 if self.settings.rounds == ENDLESS else SHORT
        self.plan = [(round(number * short), kind) for number, kind in plan
                     if kind not in without]
        self.kinds = {kind for _, kind in self.plan}

    def play(self) -> None:
        """Raises Violation."""
        self.coordinator.tell("begin")
        for peer in self.peers:
            peer.connect()
        number, quiet = 0, 0.0
        while not self.is_well(quiet):
            number += 1
            while self.plan and self.plan[0][0] <= number:
                FAULTS[self.plan.pop(0)[1]](self)
            if not self.plan and not quiet and not self.down and (
                    self.clock.now >= self.trouble.calm_at):
                self.trouble.disturbances.clear()
                self.trouble.crowded = 0.0
                quiet, self.quiet_from = self.clock.now + PATIENCE, self.truth.journal.last
            must(not quiet or self.clock.now < quiet,
                 f"{PATIENCE:g} s after the last fault not every peer counts again")
            must(number < MOST_EVENTS, "there is no end of events")
            must(self.clock.step(), "nothing is left to happen")
            self.check()
        must(not self.plan, "the run was over before its faults")
        self.truth.check_journal()
        self.truth.check_tokens({lot for peer in self.peers for lot in peer.lots},
                                untaken=sum(peer.untaken for peer in self.peers))

    def is_well(self, quiet: float) -> bool:
        """Has every honest peer's update counted since the faults stopped, or is the run over?"""
        if self.coordinator.finished:
            return True
        return bool(quiet) and all(self.truth.last_round.get(peer.name, 0) > self.quiet_from
                                   for peer in self.peers if not (peer.ended or peer.attack))

"""The coordinator's side of every conversation, and the rounds they make up: all its rules, pure.

It hears what happened and answers with effects, in the order in which they must happen. It knows
no sockets, clocks, threads or files, and never looks inside of weights: its hosts are in
`coordinator.py` and `simulation/hive.py`. Every call ends with `_follow_up`, which sees what is due
now: a task, the end of a round, an evaluation, the end of the run.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

from gltch_2_7m import GltchError, Unwritable
from hive.learning.fragments import Fragments
from hive.learning.sync import UNDO
from hive.session import messages
from hive.session.effects import Close, CoordinatorEffect, Moment, Pause, Proved, Send
from hive.session.evaluation import Evaluation
from hive.session.intake import Delivery, Early, Intake, implausible, weighted_mean
from hive.session.job import Job
from hive.session.ledger import Ledger
from hive.session.library import Library
from hive.session.links import Link, Links, Windows
from hive.session.oversight import Oversight
from hive.session.protocol import Message, ProtocolError, Receiver, demand, told
from hive.session.reception import Later, Reception
from hive.session.record import Combined, Record
from hive.session.reply import Reply
from hive.session.rounds import ACCEPTED, LATE, REJECTED, STALEST, Pace, Rounds, Verdict
from hive.session.run import Run
from hive.session.schema import Member, PeerState
from hive.session.snapshots import Snapshots
from hive.session.standing import Standing
from hive.session.supply import Supply
from hive.session.uploads import Uploads, Wanted
from hive.session.work import UPDATES, SlowWork, Writing
from hive.session.worth import Worth

FAREWELL_SECONDS = 10.0  # for peers to hear that the run is over
STATUS_SECONDS = 5.0  # between status messages; a peer that hears nothing for long reconnects
MOST_WAITING = 256  # messages for one peer


@dataclass
class Due:
    """What is due when, in steady seconds."""

    status: float = math.inf
    round: float = math.inf  # it closes, or begins anew
    farewell: float = math.inf  # the run ends, even if some have not heard it
    stirred: bool = True  # something happened that may open or close a round: now


class CoordinatorSession:
    def __init__(self, job: Job, ledger: Ledger, weights: Any, weights_hash: str, *,
                 parameters: int, update_bytes: Callable[[int], int], token: Callable[[], str],
                 pack_weights: Callable[[Any], bytes], text: Callable[[], bytes], key: str = "",
                 pace: Optional[Pace] = None, least: int = 1, eval_every: Optional[int] = None,
                 probing: bool = False, places: Optional[int] = None):
        self.job, self.ledger = job, ledger
        self.reply = Reply()
        self.due = Due()
        self.work = SlowWork(self.reply)
        # who is there
        self.reception = Reception(job, ledger, token, key)
        self.links = Links()
        self.answers: Dict[str, Callable[[Link, Any], None]] = {  # unpacked, so of their kind
            "ready": self._on_ready, "offer": self._on_offer, "progress": self._on_progress,
            "goodbye": self._on_goodbye}
        # the run
        version, _, step = ledger.head()
        past = ledger.history()
        self.standing = Standing(ledger.contributors(), ledger.reasons(), past)
        self.run = Run(job, weights, parameters, step, past, self.standing.tokens)
        self.evaluation = Evaluation(ledger.evaluations(), job.limits, eval_every, self.reply,
                                     self.work, self._evaluated)
        self.worth = Worth(job.sync.overlap)
        # the round
        fragments = len(Fragments(parameters, job.sync.fragments))
        in_flight = min(job.sync.in_flight, fragments)
        self.rounds = Rounds(version, weights_hash, pace or Pace(), least, fragments,
                             job.sync.overlap, in_flight, ledger.hashes(version - STALEST))
        self.update_bytes = update_bytes  # by the number of the round
        self.snapshots = Snapshots(self.work, fragments)
        self.intake = Intake(parameters, job.config.block_size, in_flight)
        self.uploads = Uploads(max(map(update_bytes, range(1, fragments + 1))), places,
                               self.intake.adding)
        self.oversight = Oversight(ledger, self.reply, self.work, self.standing, self.run,
                                   self.rounds, self.intake, probing)
        self.reception.banned.update(self.oversight.banned())
        self.supply = Supply(Library(job.text, text, pack_weights), ledger, self.reply, self.links,
                             self.rounds, self.run)
        self.run.stand_at(version)
        self.run.finish(self.evaluation.good_enough(self.evaluation.best))
        self._begin_round(version, weights_hash)

    # What its host tells

    def begin(self, now: Moment) -> List[CoordinatorEffect]:
        self.due.status = now.steady + STATUS_SECONDS
        return self._react(now)

    def connected(self, link: int, address: str, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self._challenge, link, address)

    def heard(self, link: int, message: Message, now: Moment, waiting: int = 0,
              blobs: int = 0) -> List[CoordinatorEffect]:
        """`waiting`: how many messages the link has not taken yet; `blobs`: also those that it has
        taken a part of."""
        return self._react(now, self._attempt, link, self._hear, link, message, waiting, blobs)

    def chunk(self, link: int, content: bytes, now: Moment,
              waiting: int = 0) -> List[CoordinatorEffect]:
        return self._react(now, self._attempt, link, self._take_chunk, link, content, waiting)

    def broken(self, link: int, reason: str, now: Moment) -> List[CoordinatorEffect]:
        """It sent what is no message of the protocol."""
        return self._react(now, self._refuse, link, reason)

    def admitted(self, link: int, now: Moment) -> List[CoordinatorEffect]:
        """A peer that is proved has got a place."""
        return self._react(now, self._write_down, link)

    def lost(self, link: int, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self._leave, link)

    def done(self, ticket: int, result: Any, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self.work.done, ticket, result)

    def failed(self, ticket: int, error: GltchError, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now, self.work.failed, ticket, error)

    def wake(self, now: Moment) -> List[CoordinatorEffect]:
        return self._react(now)

    def ordered(self, kind: str, value: Any, now: Moment) -> List[CoordinatorEffect]:
        """The owner of the hive wants somebody banned or pardoned, or an earlier version back."""
        return self._react(now, self._obey, kind, value)

    def stop(self, now: Moment) -> List[CoordinatorEffect]:
        """Keep what there is, and end; the run may go on some day."""
        return self._react(now, self._stop)

    @property
    def deadline(self) -> float:
        """When `wake` wants to be called."""
        if self.reply.over:
            return math.inf
        evaluation = self.evaluation.at if self._evaluation_waits() else math.inf
        return min(self.reception.deadline, self.work.deadline, evaluation, self.due.round,
                   self.due.status, self.due.farewell)

    # How it answers

    def _react(self, now: Moment, act: Optional[Callable[..., None]] = None,
               *values: Any) -> List[CoordinatorEffect]:
        self.reply.now = now
        if act:
            act(*values)
        if not self.reply.over:
            self._follow_up()
        return self.reply.take()

    def _attempt(self, number: int, act: Callable[..., None], *values: Any) -> None:
        """The one place where what goes wrong in a conversation has its consequences."""
        try:
            act(*values)
        except ProtocolError as error:
            self._refuse(number, str(error))
        except Later as error:
            self._close(number, 1013, str(error))
        except Unwritable:  # a round that cannot be written says so by itself
            self._turn_away(number)
        except GltchError as error:  # the record is damaged
            self.reply.fail(error)

    def _refuse(self, number: int, reason: str) -> None:
        link, stranger = self.links.proved.get(number), self.reception.strangers.get(number)
        who = link.identity.name if link else stranger.address if stranger else ""
        if who:  # or it is gone already
            self.reply.say("refused", f"{who}: {reason}")
            self._close(number, 1008, last={"type": "refused", "reason": reason})

    def _turn_away(self, number: int) -> None:
        self._close(number, 1013, "The coordinator's disk takes nothing just now.")

    def _close(self, number: int, code: int, reason: str = "", last: Optional[Message] = None
               ) -> None:
        here = number in self.links.proved or number in self.reception.strangers
        if here:  # or it is gone already
            self.reply.add(Close(number, code, reason, last))
            self._leave(number)

    def _send_all(self, kind: str, **values: Any) -> None:
        message = {"type": kind, **values}  # one, so that it need not be packed for each
        for link in self.links.peers.values():
            self.reply.add(Send(link.number, message))

    # What is due now

    def _follow_up(self) -> None:
        now = self.reply.now.steady
        self._time_out_strangers()
        self.work.retry()
        self._send_status()
        if self.due.stirred or now >= self.due.round:
            self._see_to_the_round()
        self._combine()
        if self._evaluation_waits() and now >= self.evaluation.at:
            self._evaluate()
        if self.run.finished:
            self._wind_up()

    def _time_out_strangers(self) -> None:
        if self.reply.now.steady < self.reception.deadline:
            return
        for number in self.reception.too_late(self.reply.now.steady):
            self._close(number, 1008, "The handshake took too long.")

    def _send_status(self) -> None:
        now = self.reply.now.steady
        if now >= self.due.status:
            self.due.status = now + STATUS_SECONDS
            self._send_all("status", version=self.rounds.version, peers=len(self.links.peers),
                           loss=told(self.run.loss), val_loss=told(self.evaluation.val_loss))
            self._call_next()  # somebody may have stalled

    def _see_to_the_round(self) -> None:
        now = self.reply.now.steady
        self.due.stirred = False
        if not self.run.finished:
            self._hand_out_tasks()
            for peer, early in self.intake.due(self.rounds.waits):
                self._hand_in(self.links.peers[peer], early)
            self._call_next()  # somebody left, or an update was added
            if self.rounds.close(now):
                self.reply.show("closed", version=self.rounds.version)
        deadline = self.rounds.deadline
        self.due.round = deadline if deadline > now else math.inf

    def _evaluation_waits(self) -> bool:
        return not self.run.finished and self.evaluation.waits(self.rounds.version)

    def _evaluate(self) -> None:
        self.evaluation.begin(self.run.weights, self.rounds.version, self.run.step)

    def _evaluated(self) -> None:
        self.run.finish(self.evaluation.good_enough(self.evaluation.val_loss))
        self.due.stirred = True

    # The end of the run

    def _stop(self) -> None:
        self.reply.over = True
        self.work.ask(UPDATES, "snapshot", then=lambda _: self.reply.finish(""))

    def _wind_up(self) -> None:
        """One thing after the other: the last commit, evaluation and snapshot, farewell."""
        if self.rounds.closed or self.evaluation.measuring or self.oversight.trust.trying:
            return
        farewell = self.due.farewell
        if self.evaluation.evaluated != self.rounds.version:
            self._evaluate()
        elif not self.run.announced:
            self.run.announced = True
            self.reply.show("finished", reason=self.run.finished)
            self.work.write(Writing("snapshot", UPDATES, "snapshot", (), self._say_farewell))
        elif farewell <= self.reply.now.steady or farewell < math.inf and not self.links.peers:
            self.reply.finish(self.run.finished)

    def _say_farewell(self) -> None:
        self.due.farewell = self.reply.now.steady + FAREWELL_SECONDS
        self._send_all("finished", reason=self.run.finished)

    # Peers come

    def _challenge(self, number: int, address: str) -> None:
        challenge = self.reception.challenge(number, address, self.reply.now.steady)
        self.reply.add(Send(number, challenge))

    def _on_hello(self, number: int, hello: Any) -> None:
        here = [link.identity for link in self.links.proved.values()]
        arrival = self.reception.meet(number, hello, here, self.standing.contributors,
                                      self.reply.now.steady)
        self.links.prove(number, arrival, self.reply.now)
        self.reply.add(Proved(number))

    def _write_down(self, number: int) -> None:
        """It has a place; its identity has to be known when it comes back."""
        if number in self.links.arriving:
            (peer, name, device, kind, _), _, token_hash, _ = self.links.arriving[number]
            self.work.ask(UPDATES, "remember_peer", peer, name, token_hash, device,
                          kind, self.reply.now.unix,
                          then=lambda _: self._attempt(number, self._enter, number),
                          unwritable=lambda _: self._turn_away(number))

    def _enter(self, number: int) -> None:
        """From now on it takes part. A connection of the same process that was not yet found dead
        makes way."""
        if number not in self.links.arriving:
            return  # it did not wait
        (peer, name, device, kind, _), token, _, proof = self.links.arriving.pop(number)
        counted = self.ledger.counted(peer)
        if peer in self.links.peers:
            self._close(self.links.peers[peer].number, 1000)
        link = self.links.peers[peer] = self.links.proved[number]
        self.standing.join(peer, name, device, kind, self.reply.now.unix)
        self.rounds.join(peer)
        self.reply.show("joined", peer=self.about(link))
        self.reply.say("joined", f"{name} ({device})")
        self.reply.send(number, "welcome", proof=proof, peer=peer, name=name, token=token,
                   counted=counted, job=self.reception.described)

    def _leave(self, number: int) -> None:
        self.reception.strangers.pop(number, None)
        link = self.links.leave(number)
        if link is None:
            return
        self.rounds.leave(link.peer)
        self.intake.leave(link.peer)
        self.uploads.leave(link.peer)
        self.reply.show("left", peer=link.peer)
        waits = not (self.links.peers or self.run.finished or self.reply.over)
        self.reply.say("left", link.identity.name + waits * "; nobody is left, the run waits")
        self.due.stirred = True

    # What they say

    def _hear(self, number: int, said: Any, waiting: int, blobs: int) -> None:
        if number in self.reception.strangers:
            self._on_hello(number, said)
            return
        link = self._speaker(number, waiting)
        if link is None:
            return
        kind = said["type"]
        if kind == "fetch":
            self.supply.fetch(link, said, blobs)
            return
        demand(kind in self.answers, f"A peer does not send {kind} messages.")
        self.answers[kind](link, said)

    def _take_chunk(self, number: int, content: bytes, waiting: int) -> None:
        demand(number not in self.reception.strangers, "A control message was expected.")
        link = self._speaker(number, waiting)
        if link is not None:
            self._on_chunk(link, content)

    def _speaker(self, number: int, waiting: int) -> Optional[Link]:
        """None: this connection was closed, and what still comes from it is of no interest."""
        demand(number not in self.links.arriving, "A peer waits for its welcome.")
        demand(waiting < MOST_WAITING, "The peer asks for more than it takes.")
        link = self.links.proved.get(number)
        if link:
            link.down.unasked = 0
        return link

    def _on_ready(self, link: Link, said: messages.Ready) -> None:
        """The peer holds these weights. If they are old it gets what is missing."""
        link.batch_size = said["batch_size"]
        version, weights = said["version"], said["weights"]
        if weights and self.rounds.ready(link.peer, version, weights):
            self.due.stirred = True
            return
        self.due.stirred |= self.supply.catch_up(link, version, weights)

    def _on_progress(self, link: Link, said: messages.Progress) -> None:
        link.steps = said["steps"]

    def _on_goodbye(self, link: Link, said: Message) -> None:
        self._close(link.number, 1000)

    # Updates arrive

    def _on_offer(self, link: Link, said: messages.Offer) -> None:
        now, link.batch_size = self.reply.now.steady, said["batch_size"]
        wanted = Wanted(said["version"], said["update"], said["bytes"])
        link.up.expect(said["update"], said["bytes"] if said["follows"] else 0)
        if self.intake.has(link.peer, said["version"]):
            return  # it reconnected; the verdict comes when it is reached
        if self._delivered(link.peer, said["version"]):
            # It reconnected before it heard; the commit will tell, or is already on its way.
            self._send_verdict(link, said, Verdict(ACCEPTED))
            return
        if self.rounds.in_flight > 1 and self.uploads.behind(link.peer, wanted, now):
            return  # it offers this again after the one before
        verdict = self.rounds.offer(link.peer, said["version"], said["weights"], said["steps"], now,
                                    said["base"])
        wrong = implausible(said, self.update_bytes(said["version"] + 1), len(self.job.characters))
        if verdict.verdict == ACCEPTED and wrong:
            verdict = Verdict(REJECTED, wrong)
            if not self.rounds.early(said["version"]):
                self.rounds.withdraw(link.peer)
        if verdict.verdict != ACCEPTED:
            self._judge(link, said, verdict)
            return
        link.up.offers(said, now)
        receiver = self.uploads.begin(link.peer, wanted, now)
        if receiver is not None:
            self._receive(link, said, receiver)

    def _delivered(self, peer: str, version: int) -> bool:
        """Was its update for the round from this version added, in this round or an earlier one?"""
        parts = self.rounds.fragments
        rounds = self.ledger.counted(peer)
        if peer in self.rounds.delivered:
            rounds = [*rounds, self.rounds.version + 1]
        return any(number > version and (number - version - 1) % parts == 0 for number in rounds)

    def _receive(self, link: Link, said: messages.Offer, receiver: Receiver) -> None:
        """Let it send its update, from where an interrupted transfer stopped."""
        if said["follows"]:
            link.up.surplus = 0
        else:
            self.reply.send(link.number, "send", blob=receiver.blob, offset=len(receiver.content))
        if receiver.complete:
            self._deliver(link, said, receiver)

    def _call_next(self) -> None:
        """Those who wait with an update may send it when others have done so."""
        for peer, receiver in self.uploads.turns(self.reply.now.steady):
            self.reply.send(self.links.peers[peer].number, "send", blob=receiver.blob, offset=0)

    def _on_chunk(self, link: Link, content: bytes) -> None:
        if link.up.drops(content):
            return
        receiver = self.uploads.add(link.peer, content, self.reply.now.steady)
        if receiver is None or link.up.offer is None:
            raise ProtocolError("A chunk came that belongs to no transfer.")
        self.reply.show("transfer", peer=link.peer, direction="up", content="update",
                   bytes=len(content))
        if receiver.complete:
            self._deliver(link, link.up.offer, receiver)

    def _deliver(self, link: Link, said: messages.Offer, receiver: Receiver) -> None:
        """The whole update is there; if it cannot count in the open round, it waits for the next.
        """
        link.up.sent(self.reply.now.steady)
        self.uploads.drop(link.peer)
        early = Early(said, receiver.result(), self.reply.now.steady)
        if not self.rounds.keeps(link.peer, said["version"]):
            self._hand_in(link, early)
        elif not self.intake.keep(link.peer, early):
            self._judge(link, said, Verdict(LATE, "There is no room for updates of rounds to come; "
                                                  "the work is not lost, it comes with the next."))
        self._call_next()

    def _hand_in(self, link: Link, update: Early) -> None:
        """It counts if the round is open and the outer step admits it."""
        said, content, arrived = update
        now = self.reply.now.steady
        stale = (self.rounds.version - said["version"]) // self.rounds.fragments
        verdict = self.rounds.deliver(link.peer, said["version"], said["weights"], said["steps"],
                                      now, said["base"], arrived)
        if verdict.verdict != ACCEPTED:
            self._judge(link, said, verdict)
            return
        delivery = self.intake.take(link, said, len(content), stale, now, arrived)
        weight = delivery.weight * self.oversight.trust.weight(link.peer)
        self.work.ask(UPDATES, "add", said["codec"], content, weight, said["steps"], link.peer,
                      stale > 0, then=partial(self._count, delivery),
                      rejected=partial(self._reject, delivery))

    def _count(self, delivery: Delivery, weight: float) -> None:
        """It was added, with this weight, to what the round will commit."""
        self.intake.count(delivery, weight)
        self.reception.please(delivery.link.peer)
        self.due.stirred = True
        if weight:
            self._send_verdict(delivery.link, delivery.said, Verdict(ACCEPTED))
            return
        aside = self.oversight.trust.of(delivery.link.peer).aside
        self.rounds.set_apart(delivery.link.peer)
        self._leave_out(delivery, f"This peer is set aside: {aside}. Its updates are looked at, "
                        "and count again once they are good.")

    def _leave_out(self, delivery: Delivery, reason: str) -> None:
        """It was taken, and does not count all the same."""
        link, said, *_ = delivery
        self.intake.leave_out(link.peer, REJECTED, reason)
        self.standing.refuse(link.peer, REJECTED, reason, self.reply.now.unix)
        self.reply.show("refused", peer=link.peer, verdict=REJECTED, reason=reason)
        self._send_verdict(link, said, Verdict(REJECTED, reason))

    def _reject(self, delivery: Delivery, error: GltchError) -> None:
        """It was not added: it would do the weights no good."""
        link, said, *_ = delivery
        del self.intake.adding[link.peer]
        self.rounds.reject(link.peer)
        self.due.stirred = True
        current = self.links.peers.get(link.peer, link)  # it may have another connection by now
        self._attempt(current.number, self._judge, current, said, Verdict(REJECTED, str(error)))

    def _judge(self, link: Link, said: messages.Offer, verdict: Verdict) -> None:
        """Tell a peer, and write down, that its update does not count. Raises ProtocolError when
        that was one too many."""
        self.uploads.drop(link.peer)
        self.intake.refuse(link, said, verdict)
        self.standing.refuse(link.peer, verdict.verdict, verdict.reason, self.reply.now.unix)
        self.reply.show("refused", peer=link.peer, verdict=verdict.verdict, reason=verdict.reason)
        self._send_verdict(link, said, verdict)
        if verdict.verdict == REJECTED:
            self.reply.say("rejected", f"{link.identity.name}: {verdict.reason}")
            pause = self.reception.disappoint(link.peer, verdict.reason, self.reply.now.steady)
            if link.number in self.links.proved:  # or it did not wait for the verdict
                self.reply.add(Pause(link.number, pause))

    def _send_verdict(self, link: Link, said: messages.Offer, verdict: Verdict) -> None:
        current = self.links.peers.get(link.peer)
        if current:  # it may be gone, or have another connection by now
            self.reply.send(current.number, "verdict", version=said["version"],
                       verdict=verdict.verdict, reason=verdict.reason)

    # Rounds

    def _begin_round(self, version: int, weights_hash: str) -> None:
        self.rounds.open_round(version, weights_hash, self.run.quota, self.run.left)
        self.intake.opened = None
        self.uploads.forget(version - STALEST)
        self.due.stirred = True

    def _hand_out_tasks(self) -> None:
        before = self.rounds.plan
        tasks = self.rounds.tasks(self.reply.now.steady, self.intake.waiting)
        plan = self.rounds.plan
        if plan is not None and plan is not before:  # also when nobody made it and all begin again
            self.intake.opened = self.reply.now.steady
            self.reply.show("opened", version=self.rounds.version, quota=plan.quota,
                            seconds=plan.seconds)
        for peer, task in tasks.items():
            link = self.links.peers[peer]
            count = link.batch_size * max(task.quota, link.lately)
            first = self.run.give_windows(count)
            link.windows = Windows(first, 0 if self.rounds.overlap else count)
            self.intake.ask(link, task.quota + self.rounds.ahead)
            self.reply.send(link.number, "train", version=task.version,
                            weights=self.rounds.weights, step=self.run.step, total=self.run.total,
                            quota=task.quota, seconds=task.seconds, window=first)

    def _combine(self) -> None:
        """Once the round is closed and everything that was delivered in it has been added."""
        if self.intake.adding or self.intake.committing:
            return
        if self.oversight.goes_back():
            self.intake.committing = True
            self.oversight.go_back(self._keep_return)
        elif self.rounds.closed:
            self.intake.committing = True
            self.work.ask(UPDATES, "combine", then=self._keep)

    def _keep(self, committed: Optional[Combined]) -> None:
        """Have the round written down; None: nothing of it could be used, it goes on."""
        if committed is None:
            self.intake.committing, self.due.stirred = False, True
            self.rounds.reopen()
            return
        for delivery, reason in self.oversight.see(committed):
            self._leave_out(delivery, reason)
        contributions, now = self.intake.close(), self.reply.now
        counted = [c for c in contributions if c.verdict == "counted"]
        self.run.loss = weighted_mean((c.loss, c.weight) for c in counted if math.isfinite(c.loss))
        # With overlap every peer sends many updates, and its longer ones must not count twice.
        steps = self.run.whole_steps(weighted_mean(
            (c.steps, 1.0 if self.rounds.overlap else c.weight) for c in counted))
        length = self.intake.length(now.steady, self.rounds.longest)
        record = Record(self.rounds.version + 1, committed.base, committed.result, committed.codec,
                        committed.update, self.run.step + steps, self.run.loss, now.unix - length,
                        now.unix, contributions, self.oversight.take())
        self._write(record, committed)

    def _keep_return(self, committed: Combined) -> None:
        """Have it written down that the run went back."""
        self._write(self.oversight.record_return(committed), committed)

    def _write(self, record: Record, committed: Combined) -> None:
        self.work.write(Writing("round", UPDATES, "keep", (record, committed),
                                partial(self._commit, record, committed)))

    def _commit(self, record: Record, committed: Combined) -> None:
        """The round is on the disk, so peers may hear that their updates counted: those who are
        here now; those who come later hear it from the ledger, which knows nothing sooner."""
        self.intake.committing = False
        self.standing.count(record)
        before = self.run.weights
        self.run.advance(record, committed.weights)
        if record.codec == UNDO:
            self._begin_anew(record)
        else:
            self.supply.leave_behind()
            self._begin_round(record.number, record.result)
            self.supply.tell_commit(record)
            self.oversight.probe(record.number, before, committed)
        self.reply.show(
            "committed", version=record.number, step=record.step, total=self.run.total,
            loss=record.loss, opened=record.opened, committed=record.committed,
            undone=int(record.update) if record.codec == UNDO else None,
            contributions=[c.shown for c in record.contributions])
        costs = self.worth.judge(self.standing, self.links.peers.values())
        if costs:
            self.reply.say("slower", costs)
        self.snapshots.after_round(record.number)

    def _begin_anew(self, record: Record) -> None:
        """Nothing leads from the weights that peers have to these: they get them as a whole."""
        self.rounds.restart()
        self._begin_round(record.number, record.result)
        for link in self.links.peers.values():
            self.supply.tell_version(link)

    def _obey(self, kind: str, value: Any) -> None:
        peers = self.oversight.order(kind, value)
        self.reception.banned = set(self.oversight.banned())
        for link in [self.links.peers[peer] for peer in peers if peer in self.links.peers]:
            if link.peer in self.reception.banned:
                self._refuse(link.number, "The owner of this hive has banned this peer.")
        if not self.links.peers:
            self.oversight.note()

    # What others may know

    def doing(self, link: Link) -> Tuple[PeerState, int, int]:
        """(state, steps done, of how many)."""
        plan = self.rounds.plan
        return self.rounds.members[link.peer].state, link.steps, plan.quota if plan else 0

    def about(self, link: Link) -> Member:
        """A peer, for the dashboard."""
        state, _, quota = self.doing(link)
        return link.about(self.standing.contributors[link.peer], self.standing.share(link.peer),
                          state, quota)

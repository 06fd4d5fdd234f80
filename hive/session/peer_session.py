"""The peer's side of the conversation: what it says, what it holds, and what it waits for.

One session lives as long as its process and goes through any number of connections. It takes
what it hears in the order in which it was said, one after the other; what comes while it fetches or
works waits in a bounded inbox.
"""
from __future__ import annotations

import math
from functools import partial, wraps
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from gltch_2_7m import GltchError, require
from hive.learning.codec import CODECS
from hive.network.words import shown
from hive.session import effects, messages, protocol
from hive.session.about import About, Identity
from hive.session.conversation import Conversation, Phase
from hive.session.download import Download, Wanted
from hive.session.effects import Moment, PeerEffect
from hive.session.errands import Errands
from hive.session.figures import Figures
from hive.session.job import Job
from hive.session.network import Network
from hive.session.offers import Offers
from hive.session.protocol import Message, ProtocolError, demand
from hive.session.rounds import ACCEPTED, AHEAD, LATE, REJECTED
from hive.session.update import NOTHING, Held, Outgoing, Progress, Task

SILENCE_SECONDS = 45.0  # without a word from the coordinator: the connection is dead
PROGRESS_SECONDS = 1.0  # between two reports from within a round
REASON = 1000  # characters of what the coordinator gives as a reason, at most
MOST_FAILURES = 3  # rounds in a row whose loss was not finite


def told(happened: Callable[..., None]) -> Callable[..., List[PeerEffect]]:
    """What a host calls: the last argument is the time, and the answer what is to be done, in this
    order. The one place where a broken rule ends a conversation."""
    @wraps(happened)
    def react(session: PeerSession, *values: Any) -> List[PeerEffect]:
        session.now = values[-1]
        try:
            happened(session, *values)
        except GltchError as error:
            session.download.partial = None  # whatever was wrong, it is not gone on with
            passing = session.talk.phase is not Phase.JOINING and isinstance(error, ProtocolError)
            session.close(effects.Leave(str(error)) if passing else effects.Refuse(str(error)))
        answer, session.effects = session.effects, []
        return answer
    return react


class PeerSession:
    """One peer over all its connections.

    `token` makes 64 random hexadecimal digits, `recall` tells as whom the peer was known to a hive
    before. `server` is how the coordinator is called in lines for people.
    """

    def __init__(self, name: str, *, token: Callable[[], str], key: str = "", device: str = "",
                 kind: messages.Kind = "cpu", text: Optional[str] = None,
                 process: Optional[str] = None, batch_size: Optional[int] = None,
                 server: str = "the hive",
                 recall: Callable[[str], Optional[Identity]] = lambda hive: None):
        self.about = About(name, key, device, kind, text, process or token(), batch_size, server,
                           token, recall)
        self.hive, self.identity = "", Identity(None, name)
        self.network = Network()
        self.held = NOTHING
        self.task: Optional[Task] = None
        self.progress = Progress()  # what no update was made of yet
        self.offers = Offers()
        self.latest = -1  # version that the round of its latest update starts from
        self.left = 0  # tokens of updates that did not count
        self.failures = 0  # of training, in a row
        self.talk = Conversation()
        self.answers: Dict[str, Callable[[Any], None]] = {  # unpacked, so of their kind
            "challenge": self.on_challenge, "welcome": self.on_welcome, "blob": self.on_blob,
            "gone": self.on_gone, "version": self.on_version, "commit": self.on_commit,
            "train": self.on_train, "send": self.on_send, "verdict": self.on_verdict,
            "status": self.on_status, "finished": self.on_finished}
        self.download = Download()
        self.figures = Figures()
        self.work = Errands()
        self.now = Moment(0.0, 0.0)
        self.effects: List[PeerEffect] = []

    @property
    def deadline(self) -> float:
        """When `wake` wants to be called, in steady seconds. A busy peer may not have listened."""
        if self.talk.phase is Phase.AWAY or self.work.under_way or self.resting_soon:
            return math.inf
        return self.talk.heard_at + SILENCE_SECONDS

    @property
    def busy(self) -> bool:
        """What was said waits for its turn."""
        return bool(self.work.under_way or self.download.wanted or self.resting_soon)

    @property
    def resting_soon(self) -> bool:
        """It trains for a while and listens again when it is done."""
        return bool(self.task and not self.network.overlap)

    @property
    def carried(self) -> int:
        """Tokens of which updates were made, but none that counted, as far as it knows."""
        return self.left + self.offers.tokens

    @property
    def training(self) -> bool:
        """Its host makes one step after the other."""
        return bool(self.task and self.progress.steps < self.task.most)

    # Effects

    def tell(self, kind: messages.FromPeer, /, **values: Any) -> None:
        self.effects.append(effects.Tell({"type": kind, **values}))

    def say(self, kind: str, text: str) -> None:
        self.effects.append(effects.Say(kind, text))

    def do(self, what: effects.PeerWork, *values: Any,
           then: Optional[Callable[[Any], None]] = None) -> None:
        self.effects.append(effects.Do(self.work.ask(what, then), "work", what, values))

    def part(self) -> None:
        """What was on its way goes on with the next connection; work for this one is forgotten."""
        self.rest()
        self.talk.part()
        self.download.interrupt()
        self.work.forget("text", "begin")

    def close(self, effect: PeerEffect) -> None:
        """The last effect of a conversation."""
        self.part()
        self.effects.append(effect)

    # A connection begins and ends

    @told
    def connected(self, now: Moment) -> None:
        self.talk.begin(now.steady)

    def on_challenge(self, challenge: messages.Challenge) -> None:
        """Show that this peer has the key, and as whom it was here before."""
        if challenge["hive"] != self.hive:
            self.hive = challenge["hive"]
            self.identity = self.about.recall(self.hive) or Identity(None, self.about.name)
        about = self.about
        require(challenge["locked"] or not about.key, "This hive needs no key: leave it out, or "
                "check that this is the hive you meant.")
        nonce, own = challenge["nonce"], about.token()
        self.talk.nonces = nonce, own
        token = self.identity.token
        self.tell("hello", protocol=protocol.VERSION, nonce=own, name=self.identity.name,
                  proof=protocol.proof(about.key, "peer", nonce, own), device=about.device,
                  kind=about.kind, process=about.process, text=about.text,
                  token=token and protocol.possession(protocol.name_of(token.encode()), nonce, own))
        protocol.check_versions(protocol.VERSION, challenge["protocol"])
        self.talk.awaited = ("welcome",)

    def on_welcome(self, welcome: messages.Welcome) -> None:
        """Check that the coordinator has the key, and learn what is trained."""
        protocol.check_welcome(welcome, self.about.key, *self.talk.nonces)
        name = protocol.clean_name(welcome["name"], self.identity.name)
        self.identity = self.identity._replace(name=name)
        if welcome["token"]:  # a new identity; otherwise this peer is the one it was
            self.identity = Identity(welcome["token"], name)
            self.effects.append(effects.Keep(welcome["token"], name))
        job = Job.from_json(welcome["job"])
        if job != self.network.job:
            self.network, self.held = Network(job), NOTHING
            self.offers.updates.clear()
            self.start_anew()
        if self.offers.updates and welcome["token"]:  # by another peer, they might count twice
            self.say("given up", "an update, because another process is the peer that made it")
            self.give_up(self.offers.updates)
        self.settle_counted(welcome["counted"])
        if self.network.built:
            self.take_part()
        else:
            self.begin(job)

    def begin(self, job: Job) -> None:
        """Get the text, from the cache if it was here before, and build the network anew."""
        self.do("text", job, then=partial(self.on_text, job))

    def on_text(self, job: Job, content: Optional[bytes]) -> None:
        if content is None:
            self.fetch(job.text, job.text_bytes, partial(self.build, job))
        else:
            self.build(job, content)

    def build(self, job: Job, content: Optional[bytes]) -> None:
        self.do("begin", job, content or b"", then=partial(self.on_built, job))

    def on_built(self, job: Job, parameters: int) -> None:
        self.network = Network.of(job, parameters, self.about.batch_size or job.recipe.batch_size)
        self.say("network", str(self.network))
        if self.held.hash:  # training broke down
            self.do("load", self.held.weights)
        if self.talk.phase is Phase.JOINING:
            self.take_part()
        else:
            self.go_on()

    def take_part(self) -> None:
        self.talk.take_part()
        self.say("joined", f"{self.about.server} as {self.identity.name}")
        self.offer_again()
        self.go_on()

    def go_on(self) -> None:
        """Or first hear what becomes of the last update."""
        if not self.offers.awaited(self.held.version):
            self.report()

    @told
    def lost(self, now: Moment) -> None:
        """The connection is gone; perhaps because the run is over."""
        finished: List[Any] = [said for said in self.talk.inbox if said["type"] == "finished"]
        self.talk.inbox.clear()
        self.part()
        if finished:
            self.on_finished(finished[0])

    @told
    def stop(self, now: Moment) -> None:
        """Somebody wants this peer to go."""
        if self.talk.phase is Phase.TAKING_PART:
            self.tell("goodbye")

    @told
    def wake(self, now: Moment) -> None:
        self.left_in_silence()

    def left_in_silence(self) -> bool:
        """Is it over, for the coordinator says nothing any more?"""
        silent = self.now.steady >= self.deadline
        if silent:
            self.close(effects.Leave("the coordinator has gone silent"))
        return silent

    # Words

    @told
    def heard(self, said: Message, now: Moment) -> None:
        """Answer what was waited for; the rest comes in its turn."""
        kind, self.talk.heard_at = said["type"], now.steady
        if self.talk.phase is Phase.AWAY:
            return  # it was said to a conversation that is over
        if kind == "refused":
            raise ProtocolError(shown(said["reason"], REASON))
        if kind in self.talk.awaited:
            self.talk.awaited = ()
            self.answers[kind](said)
        else:
            self.talk.keep(said)
        if self.resting_soon and self.progress.steps and self.over():
            self.rest()
        self.take_turns()

    def take_turns(self) -> None:
        """Answer what was said, one after the other, until something takes time."""
        job, taking_part = self.network.job, self.talk.phase is Phase.TAKING_PART
        if job and taking_part and not self.network.built and not self.busy:
            self.begin(job)
        while self.talk.inbox and self.talk.phase is Phase.TAKING_PART and not self.busy:
            said = self.talk.inbox.popleft()
            # Where there is something to do, the connection is a good one.
            if said["type"] not in ("status", "finished") and not self.talk.settled:
                self.talk.settled = True
                self.effects.append(effects.Settled())
            self.answers[said["type"]](said)

    def over(self) -> bool:
        """Was it said that the round is over, or the run?"""
        return self.talk.waits("commit", "finished")

    @told
    def broken(self, error: ProtocolError, now: Moment) -> None:
        """What came was no message at all."""
        if self.talk.phase is not Phase.AWAY:
            raise error

    # Work

    @told
    def done(self, ticket: int, result: Any, now: Moment) -> None:
        self.talk.heard_at = now.steady
        one = self.work.under_way.pop(ticket, None)
        if one:
            one.then(result)
            self.take_turns()

    @told
    def failed(self, ticket: int, error: GltchError, now: Moment) -> None:
        self.work.under_way.pop(ticket, None)
        raise error

    # Downloads

    def fetch(self, blob: str, limit: int, then: Callable[[Optional[bytes]], None],
              follows: bool = False) -> None:
        """Ask for a blob, or for the rest of one that was interrupted, unless it comes unasked."""
        offset = self.download.begin(Wanted(blob, limit, self.now.steady, then))
        self.talk.awaited = "blob", "gone"
        if not follows:
            self.tell("fetch", blob=blob, offset=offset)

    def on_blob(self, said: messages.Blob) -> None:
        self.download.announced(said)
        self.arrive()

    def on_gone(self, said: messages.Gone) -> None:
        self.download.gone(said["blob"]).then(None)

    @told
    def chunk(self, content: bytes, now: Moment) -> None:
        """It goes where it belongs, whatever else this peer is doing."""
        self.talk.heard_at = now.steady
        if self.talk.phase is not Phase.AWAY:
            self.download.add(content)
            self.arrive()
            self.take_turns()

    def arrive(self) -> None:
        taken = self.download.take()
        if taken is None:
            return
        wanted, receiver = taken
        self.offers.wait(self.now.steady - wanted.since)
        wanted.then(receiver.result())

    # The weights

    def report(self) -> None:
        """Tell which weights this peer holds; the coordinator sends a task or what is missing."""
        if self.talk.phase is Phase.TAKING_PART and self.network.built:
            self.tell("ready", version=self.held.version, weights=self.held.hash or None,
                      batch_size=self.network.sequences)

    def ask_again(self) -> None:
        """Unless newer weights are told of already: with every answer those of before are gone, so
        a peer that listens seldom would never get any."""
        if not self.talk.waits("version"):
            self.report()

    def on_version(self, said: messages.Version) -> None:
        """The weights as a whole: at the start, or after too long an absence. If newer are told of
        already, these may be gone, and asking for them would only bring another answer."""
        if self.talk.waits("version"):
            return
        self.fetch(said["weights"], 4 * self.network.parameters, partial(self.take_whole, said))

    def take_whole(self, said: messages.Version, content: Optional[bytes]) -> None:
        if content is None:
            self.ask_again()  # there are newer ones
            return
        demand(len(content) == 4 * self.network.parameters,
               "The weights have another size than the network.")
        self.settle_counted(said["counted"])
        self.do("whole", content, then=partial(self.hold_whole, said))

    def hold_whole(self, said: messages.Version, result: Tuple[Any, str]) -> None:
        self.hold(said, False, result)
        self.offer_again()

    def on_commit(self, said: messages.Commit) -> None:
        """A round is over: take its update, and tell that it is in."""
        if said["version"] <= self.held.version:
            return
        if said["version"] != self.held.version + 1 or not self.held.hash:
            self.ask_again()  # something was missed
            return
        demand(said["codec"] in CODECS, "The coordinator uses an unknown codec.")
        size = CODECS[said["codec"]].size(self.network.fragments.values(said["version"]))
        self.fetch(said["update"], size, partial(self.take_update, said, size), said["follows"])

    def take_update(self, said: messages.Commit, size: int, content: Optional[bytes]) -> None:
        if content is None:
            self.ask_again()
            return
        demand(len(content) == size, "The update has another size than its codec makes.")
        if said["counted"]:
            self.settle_counted([said["version"]])
        self.do("apply", self.held.weights, said["codec"], content,
                self.network.fragments.of_round(said["version"]),
                then=partial(self.hold, said, said["follows"]))

    def hold(self, said: Union[messages.Version, messages.Commit], task_follows: bool,
             result: Tuple[Any, str]) -> None:
        """From now on these are the weights, if they are bit for bit what they should be."""
        weights, digest = result
        if digest == said["weights"]:
            self.held = Held(said["version"], digest, weights)
            if said["type"] == "version":
                self.do("load", weights)
            else:
                self.rebase(said["version"])
        else:
            self.held = NOTHING  # never train from weights that nobody else has
        last = said["version"] - (said["type"] == "commit")
        if not self.offers.awaited(last) and not (task_follows and self.held.hash):
            self.report()  # or first hear what becomes of the last update

    def rebase(self, version: int) -> None:
        """What that round changed is again as the hive has it, but for progress of its own that no
        update was made of."""
        self.do("rebase", self.held.weights, self.network.fragments.of_round(version))

    # Training, and what becomes of it

    def on_train(self, said: messages.Train) -> None:
        """Make steps from the weights of this round, and offer what comes out."""
        known = (said["version"], said["weights"]) == self.held[:2]
        if known and len(self.offers.updates) < self.network.in_flight:
            self.latest = said["version"] - 1
            most = said["quota"] + (AHEAD if self.network.overlap else 0)
            self.task = Task(self.held, said["quota"], most, said["seconds"], self.now.steady)
            self.do("task", said["step"], said["total"], said["window"])
            if self.resting_soon and self.progress.steps >= said["quota"]:
                self.rest()  # it made them when nobody asked any more

    @told
    def stepped(self, tokens: int, loss: float, seconds: float, now: Moment) -> None:
        """A step is made: go on, or make an update of what there is."""
        self.figures.loss = loss
        self.progress.add(tokens, loss, seconds)
        task, steps = self.task, self.progress.steps
        if task is None:
            return
        if self.resting_soon and (self.over() or task.done(steps, now.steady)):
            self.rest()
            return
        if now.steady - self.talk.told_at > PROGRESS_SECONDS:
            self.talk.told_at = now.steady
            self.tell("progress", version=self.held.version, steps=steps)

    @told
    def caught_up(self, now: Moment) -> None:
        """All that was said is heard. A peer that trains on sends what is due now, between two
        steps and from the newest weights; of each round one update, and not too many at once. It
        never waits, so this is also when it notices silence."""
        if self.left_in_silence():
            return
        task, version = self.task, self.offers.free(max(self.held.version, self.latest + 1))
        if (task and self.network.overlap and task.base is self.held
                and self.progress.steps >= task.quota and not self.busy and not self.talk.inbox
                and version < self.held.version + self.network.in_flight
                and len(self.offers.updates) < self.network.in_flight
                and self.network.part_of(version) not in self.offers.parts):
            self.make_update(task.base, version)

    def rest(self) -> None:
        """No step more of this task."""
        task, self.task = self.task, None
        if task and self.progress.steps and not self.network.overlap:
            self.make_update(task.base, task.base.version)

    def make_update(self, base: Held, version: int) -> None:
        """For the round that starts from this version."""
        progress, self.progress, self.latest = self.progress, Progress(), version
        self.do("take", self.network.part_of(version), progress.steps,
                then=partial(self.made, base, version, progress))

    def made(self, base: Held, version: int, progress: Progress, update: bytes) -> None:
        self.failures, self.figures.speed = 0, progress.speed
        progress.tokens, self.left = progress.tokens + self.left, 0
        self.offers.add(Outgoing(
            version, base.version, base.hash, self.network.codec, update, self.network.sequences,
            self.network.part_of(version), progress))
        if not self.talk.waits("finished"):
            self.offer_on(self.network.overlap)

    @told
    def broke_down(self, error: GltchError, now: Moment) -> None:
        """Training may do so a few times: it begins again from the hive's weights."""
        self.start_anew()
        self.failures += 1
        if self.failures >= MOST_FAILURES:
            raise error
        self.say("trouble", f"{error} Starting again from the hive's weights.")
        self.network = self.network._replace(built=False)
        self.take_turns()

    def start_anew(self) -> None:
        """Nothing is left of what was trained but the updates that are on their way: of each part
        one, for the news of it are told by the round, and must not be taken for another's."""
        self.task, self.left, self.progress = None, 0, Progress()
        for one in self.offers.updates:
            one.last_chance = True

    def offer_again(self) -> None:
        self.offers.begin_again()
        self.offer_on(follows=False)

    def offer_on(self, follows: bool) -> None:
        """Or later, as soon as it takes part again."""
        if self.talk.phase is Phase.TAKING_PART:
            self.effects.extend(self.offers.go_on(self.now.steady, follows))

    def on_send(self, said: messages.Send) -> None:
        self.effects.extend(self.offers.send(said))
        self.offer_on(self.network.overlap)

    @told
    def uploaded(self, blob: str, now: Moment) -> None:
        self.talk.heard_at = now.steady
        self.offers.uploaded(blob, now.steady)

    def on_verdict(self, said: messages.Verdict) -> None:
        """An accepted update counts with the commit; a late one comes again with the next."""
        demand(said["verdict"] in (ACCEPTED, LATE, REJECTED), "There is no such verdict.")
        judged = self.offers.of(said["version"])
        if not judged:
            return
        if said["verdict"] == ACCEPTED:
            judged[0].sent = True
        elif said["verdict"] == REJECTED:
            self.say("rejected", shown(said["reason"], REASON))
            self.give_up(judged)
            self.report()
        else:
            self.settle(judged[0], counted=False)
            self.report()
        self.offer_on(self.network.overlap)

    def give_up(self, updates: List[Outgoing]) -> None:
        """And all that is carried, but for what else is on its way: none of it may come again."""
        for one in list(updates):
            self.settle(one, counted=False)
        self.do("forget", [part for part in self.network.fragments.parts
                           if part not in self.offers.parts])
        self.left = 0

    def settle_counted(self, rounds: List[int]) -> None:
        """Updates of this peer counted in these."""
        for one in list(self.offers.updates):
            if one.counted_in(rounds, self.network.fragments):
                self.settle(one, counted=True)

    def settle(self, one: Outgoing, counted: bool) -> None:
        self.do("settle", counted, one.part)
        self.offers.updates.remove(one)
        if not counted and not one.last_chance:
            self.left += one.work.tokens
            if self.held.hash:  # it is kept in the error feedback now
                self.rebase(one.version + 1)

    def on_status(self, said: messages.Status) -> None:
        if self.offers.unheard(self.now.steady - SILENCE_SECONDS):
            self.offer_again()  # nobody ever said what became of it
        self.figures.peers = said["peers"]
        self.figures.val_loss = math.nan if said["val_loss"] is None else said["val_loss"]

    def on_finished(self, said: messages.Finished) -> None:
        self.close(effects.End(shown(said["reason"], REASON)))

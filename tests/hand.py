"""A peer's session in a test's hands: a coordinator's words, and a host that does as asked."""
import hashlib

from builders import make_job as make

from gltch_2_7m import GltchError, parameters_of
from hive.learning.codec import CODECS
from hive.session import effects, protocol
from hive.session.effects import Moment
from hive.session.peer_session import PeerSession

TEXT = b"To be, or not to be, that is the question. " * 40
JOB = make(TEXT.decode())
PARAMETERS = parameters_of(JOB.config)
WEIGHTS = bytes(4 * PARAMETERS)
SIZE = CODECS["q4"].size(PARAMETERS)
HASH = protocol.name_of(WEIGHTS)
COMMITTED = bytes(SIZE)  # the update of a round


def applied(weights, update):
    """Any function of both will do."""
    return hashlib.sha256(weights + update).digest()


def tokens():
    number = 0
    while True:
        number += 1
        yield f"{number:064x}"


class Hand:
    """A host in a test's hands: it makes a step when the test says so, and does all else that the
    session asks for at once, except what is slow."""

    def __init__(self, name="ada", **options):
        self.now, self.cache, self.made = Moment(1000.0, 1.7e9), {}, tokens()
        self.told, self.others, self.learned = [], [], []
        self.task, self.part, self.content = None, None, b""  # of its last update
        self.slow, self.waiting = set(), []
        self.settled = 0
        self.spoilt = False  # whether what is applied leads somewhere else
        self.session = PeerSession(name, token=lambda: next(self.made), device="a test", **options)

    def wait(self, seconds):
        self.now = Moment(self.now.steady + seconds, self.now.unix + seconds)

    def act(self, asked):
        for effect in asked:
            if isinstance(effect, effects.Tell):
                said = dict(effect.message)
                self.told.append(protocol.unpack(protocol.pack(said["type"], **said)))
            elif isinstance(effect, effects.Do):
                self.do(effect)
            elif isinstance(effect, effects.Settled):
                self.settled += 1
            else:
                self.others.append(effect)

    def do(self, work):
        if work.what in self.slow:
            self.waiting.append(work)
            return
        result = getattr(self, f"do_{work.what}")(*work.values)
        self.act(self.session.done(work.ticket, result, self.now))

    def catch_up(self):
        """Do what was slow."""
        self.slow.clear()
        waiting, self.waiting = self.waiting, []
        for work in waiting:
            self.do(work)
        self.go_on()
        return self.answers()

    def go_on(self):
        """Nothing more was said for now."""
        if not self.waiting:
            self.act(self.session.caught_up(self.now))

    def do_text(self, job):
        return self.cache.get(job.text)

    def do_begin(self, job, content):
        assert protocol.name_of(content) == job.text
        self.learned.append("begin")
        return PARAMETERS

    def do_whole(self, content):
        return content, protocol.name_of(content)

    def do_apply(self, weights, codec, update, part):
        assert len(update) == CODECS[codec].size(part.stop - part.start)
        weights = applied(weights, update)
        return weights, "0" * 64 if self.spoilt else protocol.name_of(weights)

    def do_load(self, weights):
        self.learned.append("load")

    def do_rebase(self, weights, part):
        self.learned.append("rebase")

    def do_task(self, step, total, window):
        self.task = {"step": step, "total": total, "window": window}

    def do_take(self, part, steps):
        self.part, self.walked = part, steps
        return self.content

    def do_settle(self, counted, part):
        self.learned.append("counted" if counted else "not counted")

    def do_forget(self, parts):
        self.learned.append("forget")

    # A coordinator's words; each answer is what was told since

    def hear(self, kind, /, **values):
        self.act(self.session.heard(protocol.unpack(protocol.pack(kind, **values)), self.now))
        self.go_on()
        return self.answers()

    def chunk(self, content):
        self.act(self.session.chunk(content, self.now))
        self.go_on()
        return self.answers()

    def answers(self):
        told, self.told = self.told, []
        return told

    def effects(self):
        others, self.others = self.others, []
        return others

    def last(self):
        """The only thing that was asked for besides words and work."""
        effect, = [one for one in self.effects() if not isinstance(one, effects.Say)]
        return effect

    def meet(self, **challenge):
        self.act(self.session.connected(self.now))
        self.nonce = next(self.made)
        answers = self.hear("challenge", **{
            "protocol": protocol.VERSION, "hive": "h", "nonce": self.nonce, "locked": False,
            **challenge})
        self.hello = answers[0] if answers else None
        return self.hello

    def welcome(self, job=JOB, key="", **values):
        proof = protocol.proof(key, "coordinator", self.nonce, self.hello["nonce"])
        return self.hear("welcome", **{
            "proof": proof, "peer": "p", "name": "ada", "token": None, "counted": [],
            "job": job if isinstance(job, dict) else job.as_json(), **values})

    def give(self, content, offset=0):
        """Announce a blob and send it whole; the answers to its last chunk."""
        blob = protocol.name_of(content)
        assert self.hear("blob", blob=blob, bytes=len(content), offset=offset) == []
        for chunk in protocol.chunks(blob, content, offset):
            answers = self.chunk(chunk)
        return answers

    def join(self, job=JOB):
        self.cache[job.text] = TEXT
        self.meet()
        return self.welcome(job)

    def hold(self, job=JOB):
        """All the way to a peer that has the weights of version 0."""
        self.join(job)
        self.hear("version", version=0, weights=HASH, step=0, counted=[])
        answers = self.give(WEIGHTS)
        self.effects()
        return answers

    def train(self, version=0, weights=HASH, **changes):
        return self.hear("train", **{
            "version": version, "weights": weights, "step": 4, "total": None, "quota": 4,
            "seconds": 60.0, "window": 7, **changes})

    def step(self, characters=64, loss=3.0, seconds=0.5):
        self.act(self.session.stepped(characters, loss, seconds, self.now))
        self.go_on()
        return self.answers()

    def break_down(self, sentence="The loss became nan."):
        self.act(self.session.broke_down(GltchError(sentence), self.now))
        return self.answers()

    def will_make(self, update):
        self.content, self.update = update, protocol.name_of(update)

    def trained(self, update=b"\1" * SIZE, loss=3.0):
        """All steps that are wanted, and what was told after the last one."""
        self.will_make(update)
        while self.session.training:
            told = self.step(loss=loss)
        return told

    def commit(self, version=1, update=COMMITTED, weights=None, **changes):
        return self.hear("commit", **{
            "version": version, "codec": "q4", "update": protocol.name_of(update), "step": 9,
            "weights": weights or protocol.name_of(applied(WEIGHTS, update)),
            "bytes": len(update), "counted": False, "follows": False, **changes})

    def lose(self):
        self.act(self.session.lost(self.now))

    def offering(self, **trained):
        """All the way to a peer whose update is offered."""
        self.hold()
        self.train()
        return self.trained(**trained)


def kinds(told):
    return [said["type"] for said in told]

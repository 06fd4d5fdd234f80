"""The peer's session in JavaScript answers as the one in Python: conversations under faults,
recorded in the simulator, are played to it word by word."""
import json
import math
import os
import subprocess
import sys
import unicodedata
from functools import partialmethod
from pathlib import Path

import hand
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_node import SCRIPTS, base64_of

from gltch_2_7m import GltchError
from hive.learning.codec import digest
from hive.network.words import shown
from hive.session.job import Job
from hive.session.peer_session import PeerSession
from hive.session.protocol import ProtocolError, clean_name
from hive.simulation import faulty
from hive.simulation.faults import Trial

SEEDS = range(30)
CALLS = {"connected": "connected", "lost": "lost", "stop": "stop", "wake": "wake", "heard": "heard",
         "chunk": "chunk", "broken": "broken", "done": "done", "failed": "failed",
         "stepped": "stepped", "caught_up": "caughtUp", "broke_down": "brokeDown",
         "uploaded": "uploaded"}
COMMON = {"heard train", "heard commit", "chunk", "uploaded", "answered tell offer",
          "answered do rebase"}
RARE = {"broken", "brokeDown", "wake", "heard verdict", "answered leave", "answered refuse",
        "answered end", "answered do forget", "answered do whole"}


def as_json(value):
    if isinstance(value, torch.Tensor):
        return {"weights": digest(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes of": base64_of(value)}
    if isinstance(value, slice):
        return {"start": value.start, "stop": value.stop}
    if isinstance(value, Job):
        return {"job": value.as_json()}
    if isinstance(value, GltchError):
        return {"sentence": str(value), "protocol": isinstance(value, ProtocolError)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return value


def effect_as_json(effect):
    return {"type": type(effect).__name__.lower(),
            **{name: as_json(value) for name, value in effect._asdict().items()}}


class Recorded(PeerSession):
    """Writes down what it hears and what it answers."""

    conversations = []  # of all sessions

    def __init__(self, name, *, token, recall=lambda hive: None, **more):
        self.tokens, self.recalled = [], None
        super().__init__(name, token=lambda: self.note_token(token()),
                         recall=lambda hive: self.note_recalled(recall(hive)), **more)
        self.lines = []
        about = self.about
        self.conversations.append({
            "about": {"name": name, "key": about.key, "device": about.device, "kind": about.kind,
                      "text": about.text, "process": about.process, "batchSize": about.batch_size,
                      "server": about.server}, "lines": self.lines})

    def note_token(self, token):
        self.tokens.append(token)
        return token

    def note_recalled(self, identity):
        self.recalled = identity and identity._asdict()
        return identity

    def told(self, call, *values):
        self.tokens, self.recalled = [], None
        *others, now = values
        line = {"call": CALLS[call], "values": as_json(others), "now": list(now)}
        effects = getattr(super(), call)(*values)
        self.lines.append({**line, "tokens": self.tokens, "recalled": self.recalled, "answer": {
            "effects": list(map(effect_as_json, effects)), "deadline": as_json(self.deadline),
            "training": self.training, "carried": self.carried, "busy": self.busy}})
        return effects


for call in CALLS:
    setattr(Recorded, call, partialmethod(Recorded.told, call))


@pytest.fixture
def play(node, tmp_path):
    """Plays all that was recorded to the session in JavaScript: what was said and done there."""

    def play_all():
        file = tmp_path / "conversations.json"
        file.write_text(json.dumps(Recorded.conversations))
        answer = json.loads(subprocess.run([node, str(SCRIPTS / "transcripts.js"), str(file)],
                                           check=True, stdout=subprocess.PIPE).stdout)
        assert not answer["differences"]
        return set(answer["seen"])

    return play_all


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    for module in (faulty, hand):
        monkeypatch.setattr(module, "PeerSession", Recorded)
    monkeypatch.setattr(Recorded, "conversations", [])


def test_conversations_under_faults_are_answered_as_in_python(play):
    for seed in SEEDS:
        Trial(seed).play()
    assert play() >= COMMON | RARE


def test_a_peer_that_is_stopped_says_goodbye_as_in_python(play):
    peer = hand.Hand()
    peer.session.stop(peer.now)  # to nobody
    peer.join()
    peer.session.stop(peer.now)
    assert "answered tell goodbye" in play()


def test_a_key_is_proved_and_demanded_as_in_python(play):
    for key in ("", "a key"):
        for locked in (True, False):
            peer = hand.Hand(key=key)
            if peer.meet(locked=locked):
                peer.welcome(key=key)
    assert {"answered refuse", "answered do text"} <= play()


def test_a_second_process_gives_up_its_update_as_in_python(play):
    peer = hand.Hand()
    peer.offering()
    peer.lose()
    peer.meet()
    peer.welcome(token="8" * 64)
    assert "answered do forget" in play()


def test_a_round_that_was_undone_is_answered_as_in_python(play):
    """Peers that train, and one that has offered, get the weights as a whole."""
    for trained in (False, True):
        peer = hand.Hand()
        peer.hold()
        peer.train()
        if trained:
            peer.trained()
        peer.hear("version", version=2, weights=hand.HASH, step=0, counted=[])
        if trained:
            peer.give(hand.WEIGHTS)
            peer.hear("verdict", version=0, verdict="late", reason="its round is over")
            peer.train(version=2)
            peer.trained()
    assert {"answered do whole", "answered do load"} <= play()


def test_what_the_tests_of_pythons_session_say_is_answered_as_in_python(play, tmp_path):
    """They are run once more, recorded."""
    file = tmp_path / "by hand.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "recorder", "-p", "no:cacheprovider",
               *(f"tests/session/test_{name}.py" for name in ("peer_session", "overlap"))]
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=str(tests.parent), stdout=subprocess.PIPE, encoding="utf-8",
                          env={**os.environ, "RECORDED": str(file), "PYTHONPATH": os.pathsep.join(
                              map(str, (tests.parent, tests, tests / "tab")))})
    assert done.returncode == 0, done.stdout
    Recorded.conversations[:] = json.loads(file.read_text())
    assert len(Recorded.conversations) > 100
    assert play() >= {"heard gone", "answered leave", "brokeDown", "wake", "failed"}


# Python and node know different versions of Unicode, and both know the first.
old = st.characters(exclude_categories=["Cs"]).filter(
    lambda c: unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c) != "Cn")
strange = st.text(old, max_size=60) | st.text(
    "\x1b[]mPX\x07\x9b0;a \n\u202e\u0301\u3164", max_size=30)


def test_what_others_wrote_is_shown_as_in_python(ask):
    found = []

    @settings(database=None, deadline=None, max_examples=300)
    @given(strange)
    def collect(text):
        found.append(text)

    collect()
    assert ask("words", [{"text": text, "longest": 20} for text in found]) == [
        {"shown": shown(text, 20), "name": clean_name(text, "otherwise")} for text in found]

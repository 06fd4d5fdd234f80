"""The Hive, end to end: real processes, real sockets, and what happens when they fail."""
import contextlib
import http.client
import json
import os
import random
import shutil
import sqlite3
import sys
import threading
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from builders import make_token
from conftest import PROGRAM, set_environment
from hive_processes import LIMIT, ON_CPU, TINY, Coordinator, free_ports, open_socket
from shapes import assert_fits, assert_is_event

import gltch_2_7m as gltch
from gltch_2_7m import Config, FastTrainer, Runtime, TrainConfig, load_corpus, read_checkpoint
from hive import peer, server
from hive.books import applying
from hive.learning.codec import digest, encode, flatten, from_bytes, to_bytes, unflatten
from hive.learning.outer import apply_update
from hive.session import protocol
from hive.session.job import Job
from hive.session.reception import MOST_REJECTED
from hive.session.schema import Everybody, State

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def join_here(hive, *options):
    """A real peer in this process, which saves a start; returns its exit status."""
    return peer.main(["--server", hive.address, *ON_CPU, *map(str, options)])


# --------------------------------------------------------------------------------------------------
# A run from its start to its end
# --------------------------------------------------------------------------------------------------

STREAMING = ["--sync", "streaming", "--size", "1m", "--batch-size", 4]



def test_two_peers_that_never_stop_training_make_one_network(here):
    hive = here.coordinator(*STREAMING, "--rounds", 12, "--min-peers", 2)
    peers = [here.peer(hive, name) for name in ("ada", "bob")]
    for program in (*peers, hive):
        assert program.end() == 0, program.said()
        assert "all 12 rounds are done" in program.said()
    counted = Counter(name for number in range(1, 13) for name in hive.counted(number))
    assert counted["ada"] > 6 and counted["bob"] > 6
    for name in counted:
        assert hive.contributor(name)["tokens"] == sum(
            tokens for number in range(1, 13)
            for one, verdict, tokens, _ in hive.contributions(number)
            if (one, verdict) == (name, "counted"))
    assert server.main(["--verify"]) == 0


def test_a_peer_killed_while_its_update_travels_stops_nobody(here):
    hive = here.coordinator(*STREAMING, "--rounds", 50, "--round-seconds", 5)
    steady, victim = here.peer(hive, "steady"), here.peer(hive, "victim")
    hive.until(lambda: any("victim" in hive.counted(number) for number in range(1, 51)),
               "the victim never counted")
    victim.kill()
    assert (steady.end(), hive.end()) == (0, 0), (steady.said(), hive.said())
    with hive.journal() as journal:
        assert journal.head()[0] == 50
    assert "steady" in hive.counted(50) and "victim" not in hive.counted(50)
    assert server.main(["--verify"]) == 0


@pytest.fixture(scope="module")
def trained(shared):
    """Two peers, started by the command that the coordinator printed, and a run that is over."""
    hive = shared.coordinator("--sync", "sparse", "--rounds", 8, "--min-peers", 2, run="trained")
    peers = [shared.paste(hive.join, *ON_CPU, name=name) for name in ("ada", "bob")]
    statuses = [program.end() for program in (*peers, hive)]
    return SimpleNamespace(hive=hive, run=hive.run, peers=peers, statuses=statuses)


def test_two_peers_train_one_network_and_the_run_ends(trained):
    assert trained.statuses == [0, 0, 0], [p.said() for p in (*trained.peers, trained.hive)]
    with trained.hive.journal() as journal:
        version, _, step = journal.head()
        losses = dict(journal.evaluations())
    assert version == step == 8
    assert losses[8] < losses[min(losses)] - 0.01
    assert {"ada", "bob"} == {name for number in range(1, 9)
                              for name in trained.hive.counted(number)}
    for program in trained.peers:
        assert "all 8 rounds are done" in program.said()
    assert "all 8 rounds are done" in trained.hive.said()


def test_every_round_starts_from_exactly_the_weights_that_the_last_one_led_to(
        trained, monkeypatch, capsys):
    """A peer's update counts only for the SHA-256 of the weights it has; nobody was rejected."""
    for number in range(1, 9):
        assert {verdict for _, verdict, *_ in trained.hive.contributions(number)} == {"counted"}
    monkeypatch.chdir(trained.hive.folder)
    assert server.main(["--name", "trained", "--verify"]) == 0
    with trained.hive.journal() as journal:
        _, head, _ = journal.head()
    assert head in capsys.readouterr().err
    state = read_checkpoint(trained.run / "last.pt")
    model = gltch.GLTCH(Config(**state["config"]))
    model.load_state_dict(state["ema"])
    assert digest(flatten(model)) == head


def test_the_trained_network_writes(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.hive.folder)
    assert gltch.main(["sample", "--checkpoint", "runs/trained", "--length", "40"]) == 0
    assert len(capsys.readouterr().out) >= 40


def test_an_earlier_version_can_be_taken_out_and_writes(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(trained.hive.folder)
    output = tmp_path / "early.pt"
    assert server.main(["--name", "trained", "--at-round", "3", "--output", str(output)]) == 0
    early, final = read_checkpoint(output), read_checkpoint(trained.run / "last.pt")
    assert (early["step"], final["step"]) == (3, 8)
    assert not torch.equal(early["ema"]["head.weight"], final["ema"]["head.weight"])
    assert gltch.main(["sample", "--checkpoint", str(output), "--length", "20"]) == 0
    assert server.main(["--name", "trained", "--at-round", "9", "--output", str(output)]) == 2
    assert "--at-round must be from 0 to 8, not 9" in capsys.readouterr().err


def test_a_change_of_the_record_does_not_pass_the_verification(trained, here, capsys):
    copy = here.folder / "runs" / "copy"
    shutil.copytree(str(trained.run), str(copy))
    with contextlib.closing(sqlite3.connect(str(copy / "journal.db"))) as db:
        db.execute("UPDATE contributions SET name = 'eve' WHERE number = 5")
        db.commit()
    assert server.main(["--name", "copy", "--verify"]) == 2
    assert "Round 5 is broken" in capsys.readouterr().err


def test_a_run_that_is_complete_says_so(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.hive.folder)
    assert server.main(["--name", "trained"]) == 2
    assert "is complete: all 8 rounds are done" in capsys.readouterr().err


@pytest.mark.parametrize("option", [
    ("--size", "2.7m"), ("--sync", "diloco"), ("--rounds", "9"), ("--seed", "1"),
    ("--data", str(PROGRAM)), ("--steps", "4"), ("--batch-size", "3")])
def test_an_option_that_contradicts_the_run_is_refused(trained, monkeypatch, capsys, option):
    monkeypatch.chdir(trained.hive.folder)
    assert server.main(["--name", "trained", *option]) == 2
    error = capsys.readouterr().err
    assert f"was started with another {option[0]}: leave it out" in error


def test_a_new_run_begins_with_the_network_of_a_finished_one(trained, here, monkeypatch):
    text = here.folder / "other.txt"
    text.write_text("Ça, c'est déjà un autre texte.\n" * 99, encoding="utf-8")
    hive = Coordinator(here.folder, "--from", trained.run, "--data", text, *TINY[2:], "--port", 0,
                       "--dashboard-port", 0, "--rounds", 2, run="further")
    here.programs.append(hive)
    peer = here.peer(hive, "ada")
    assert (peer.end(), hive.end()) == (0, 0), [peer.said(), hive.said()]
    assert "new characters: \"'\"" in hive.said() and "1m, " in hive.said()
    assert hive.counted(1) == hive.counted(2) == ["ada"]
    with hive.journal() as journal:
        job = Job.from_json(journal.run)
        first = gltch.GLTCH(job.config)
        unflatten(from_bytes(journal.weights_at(0, applying(job))), first)
    origin, known = gltch.load(str(trained.run))
    assert job.characters.startswith(known.characters) and len(job.characters) > len(known)
    for part in ("token_embedding", "head"):
        weight = getattr(first, part).weight[:len(known)]
        assert torch.equal(weight, getattr(origin, part).weight)
    monkeypatch.chdir(here.folder)
    assert server.main(["--name", "further", "--verify"]) == 0


# --------------------------------------------------------------------------------------------------
# What is computed
# --------------------------------------------------------------------------------------------------

STEPS = 6


@pytest.fixture(scope="module")
def exact(shared):
    """Plain gradient descent, exact values, a synchronization after every step. One of the two
    peers is two processes, started as torchrun would start them."""
    hive = shared.coordinator(
        "--sync", "every-step", "--codec", "fp32", "--optimizer", "sgd", "--learning-rate", "0.1",
        "--steps", STEPS, "--min-peers", 2, run="exact")
    port, = free_ports(1)
    crew = [shared.peer(hive, "crew", environment={
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
        "RANK": str(rank), "LOCAL_RANK": str(rank), "USE_LIBUV": "0"}) for rank in range(2)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        set_environment(monkeypatch, shared.folder)
        assert join_here(hive, "--name", "here") == 0
    return SimpleNamespace(hive=hive, crew=crew, ends=[one.end() for one in (*crew, hive)])


def test_a_peer_of_two_processes_is_one_peer(exact):
    assert exact.ends == [0, 0, 0], exact.crew[0].said()
    crew = exact.hive.contributor("crew")
    assert crew["device"].startswith("2 x CPU") and crew["kind"] == "cpu"
    for number in range(1, STEPS + 1):
        assert exact.hive.counted(number) == ["crew", "here"]
    assert exact.crew[0].said().count(f"finished  all {STEPS} steps are done") == 1


def test_two_peers_equal_one_process_with_twice_the_batch(
        exact, text_file, monkeypatch, tmp_path):
    monkeypatch.chdir(exact.hive.folder)
    output = tmp_path / "hive.pt"
    assert server.main(["--name", "exact", "--at-round", str(STEPS), "--output", str(output)]) == 0
    state = read_checkpoint(output)
    config = Config(**state["config"])
    together = gltch.GLTCH(config)
    together.load_state_dict(state["ema"])
    recipe = TrainConfig(optimizer="sgd", learning_rate=0.1, steps=STEPS, batch_size=4, warmup=2,
                         device="cpu")
    alone = FastTrainer(config, recipe, load_corpus([str(text_file)]), Runtime(torch.device("cpu")))
    start = flatten(alone.model)
    with exact.hive.journal() as journal:
        assert journal.at(0)[0] == digest(start)
    for _ in range(STEPS):
        alone.train_step()
    assert (flatten(alone.model) - start).abs().max() > 1e-3
    torch.testing.assert_close(flatten(together), flatten(alone.model), rtol=0, atol=1e-5)


def test_the_minutes_end_the_run(here):
    hive = here.coordinator("--minutes", 0.02)
    assert join_here(hive) == 0
    assert hive.end() == 0
    assert "the 0.02 minutes are over" in hive.said()
    with hive.journal() as journal:
        rounds = journal.history()
    assert sum(row["committed"] - row["opened"] for row in rounds) >= 1.2


# --------------------------------------------------------------------------------------------------
# The coordinator dies, comes back, and ends the run when the loss is low enough
# --------------------------------------------------------------------------------------------------

def head_of(hive):
    with hive.journal() as journal:
        return journal.head()


def test_a_killed_coordinator_goes_on_where_it_was_and_its_peer_comes_back_by_itself(here):
    ports = free_ports(2)
    command = ("--port", ports[0], "--dashboard-port", ports[1], "--target-loss", 2.8)
    hive = here.coordinator(*command)
    ada = here.peer(hive, "ada")
    hive.reaches(2)
    hive.kill()
    version, weights, step = head_of(hive)
    assert version >= 2

    hive = here.coordinator(*command)
    assert f"round {version}, step {step}" in hive.said()
    assert (ada.end(), hive.end()) == (0, 0)
    with hive.journal() as journal:
        assert journal.at(version)[0] == weights and journal.last > version
        assert journal.evaluations()[-1][1] <= 2.8
    assert "is reached" in hive.said()
    assert server.main(["--verify"]) == 0
    assert ada.said().count("joined ") == 2
    assert hive.contributor("ada")["rounds"] > version


# --------------------------------------------------------------------------------------------------
# A quiet hive: it waits for two, so nothing happens but what a test does
# --------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def quiet(shared):
    return shared.coordinator("--rounds", 1000, "--min-peers", 2, run="quiet")


@pytest.mark.parametrize("end", ["noticed", "unnoticed"])
def test_an_interrupted_upload_goes_on_where_it_stopped_and_counts_once(here, quiet, end):
    name = f"broken-{end}"
    steady, broken = here.pair(quiet, f"steady-{end}", name)
    update = broken.update()
    broken.begin(quiet, update)
    if end == "noticed":
        broken.vanish()
        quiet.hears(f"left      {name}")
    again = here.client(quiet, name, token=broken.token, process=broken.process)
    again.enter()
    assert again.identity == broken.identity
    said = again.offer(update)
    assert (said["type"], said["offset"]) == ("send", protocol.CHUNK_BYTES)
    for chunk in protocol.chunks(said["blob"], update, said["offset"]):
        again.socket.send(chunk)
    assert again.hear("verdict")["verdict"] == "accepted"
    assert again.offer(update)["verdict"] == "accepted"  # it reconnected before it heard
    assert steady.deliver(steady.update())["verdict"] == "accepted"
    commit = again.hear("commit")
    assert commit["counted"]
    assert quiet.counted(commit["version"]) == [name, steady.name]


def test_who_missed_some_rounds_gets_their_updates_and_arrives_at_the_same_weights(here, quiet):
    absent = here.client(quiet, "absent").enter()
    weights, start = absent.fetch(absent.weights), absent.version
    assert protocol.name_of(weights) == absent.weights
    for _ in range(2):
        here.pair(quiet, "left", "right")
        for client in here.clients[-2:]:
            assert client.deliver(client.update())["verdict"] == "accepted"
        for client in here.clients[-2:]:
            client.hear("commit")
            client.say("goodbye")
            quiet.left(client.name)
    absent.later.clear()
    absent.ready()
    for number in (start + 1, start + 2):
        said = absent.hear("commit")
        assert said["version"] == number
        weights = to_bytes(apply_update(from_bytes(weights), said["codec"],
                                        absent.fetch(said["update"])))
        assert protocol.name_of(weights) == said["weights"]
    assert (said["version"], said["weights"]) == head_of(quiet)[:2]
    assert len(weights) == 4 * absent.parameters


def test_the_tenth_that_is_held_out_never_leaves_the_coordinator(here, quiet, text_file):
    client = here.client(quiet, "curious")
    job = client.hear("welcome")["job"]
    client.say("ready", version=0, weights=None, batch_size=2)
    text = text_file.read_bytes()
    given = client.fetch(job["text"])
    assert text.startswith(given) and len(given) == job["text_bytes"] < len(text)
    assert protocol.name_of(text) == job["whole_text"]
    client.say("fetch", blob=job["whole_text"], offset=0)
    assert client.hear("gone")["blob"] == job["whole_text"]


def test_a_peer_brings_no_other_text(quiet, text_file, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_bytes(text_file.read_bytes()[::-1])
    assert join_here(quiet, "--name", "reader", "--data", other) == 2
    assert "another text than the one this hive trains on" in capsys.readouterr().err
    quiet.hears("reader: The peer brought another text")


def test_a_peer_of_another_version_is_told_which_side_to_update(here, quiet):
    for version, behind in ((999, "coordinator"), (0, "peer")):
        client = here.client(quiet, f"version-{version}", protocol=version)
        sentence = (f"The peer speaks version {version} of the protocol, the coordinator version "
                    f"{protocol.VERSION}")
        reason = client.hear("refused")["reason"]
        assert sentence in reason and f"update the {behind}" in reason
        quiet.hears(sentence)


def test_a_coordinator_of_another_version_is_refused_by_the_peer(capsys):
    sync_server = pytest.importorskip("websockets.sync.server")

    def answer(connection):
        connection.send(protocol.pack("challenge", protocol=999, hive="x", locked=False,
                                      nonce=make_token()))
        connection.recv(timeout=LIMIT)

    with sync_server.serve(answer, "127.0.0.1", 0) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        port = listener.socket.getsockname()[1]
        assert join_here(SimpleNamespace(address=f"ws://localhost:{port}")) == 2
        listener.shutdown()
        thread.join(LIMIT)
    error = capsys.readouterr().err
    assert "the coordinator version 999: update the peer" in error


def test_a_key_for_a_hive_without_one_is_questioned(quiet, capsys):
    assert join_here(quiet, "--key", "secret") == 2
    assert "This hive needs no key" in capsys.readouterr().err


def test_two_coordinators_do_not_work_in_one_folder(quiet, monkeypatch, capsys):
    monkeypatch.chdir(quiet.folder)
    assert server.main(["--name", "quiet", "--port", "0", "--dashboard-port", "0"]) == 2
    assert "Another coordinator works in" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
def test_a_port_in_use_is_named(quiet, text_file, capsys, option):
    ports = {"--port": "0", "--dashboard-port": "0", option: str(quiet.port)}
    options = [word for pair in ports.items() for word in pair]
    assert server.main(["--data", str(text_file), *TINY, *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("server.py: error:") and str(quiet.port) in error and "in use" in error


@pytest.mark.parametrize("address", ["localhost:8765", "http://localhost:8765", ""])
def test_an_address_that_is_no_websocket_is_refused(address, capsys):
    assert peer.main(["--server", address, *ON_CPU]) == 2
    assert "--server must begin with ws:// or wss://" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b", "../up", "..", ""])
def test_a_name_is_one_folder(name, capsys, tmp_path):
    assert server.main(["--name", name]) == 2
    assert "--name is a folder's name under runs/" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option, value", [
    ("--data", "nowhere.txt"), ("--from", "nowhere"), ("--key-file", "nowhere"),
    ("--batch-size", "0")])
@pytest.mark.parametrize("there", [(), ("notes.txt",)], ids=["new", "there"])
def test_a_start_that_fails_leaves_no_folder_that_was_not_there(
        text_file, place, option, value, there):
    folder = place / "runs" / "mine"
    for name in there:
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"mine")
    port, page = free_ports(2)
    options = {"--data": str(text_file), "--name": "mine", "--port": str(port),
               "--dashboard-port": str(page), option: value}
    assert server.main([word for pair in options.items() for word in pair]) == 2
    assert folder.exists() == bool(there) and all((folder / name).exists() for name in there)


def test_a_hive_does_not_write_over_a_run_of_one_machine(capsys, place):
    (place / "runs" / "mine").mkdir(parents=True)
    (place / "runs" / "mine" / "last.pt").write_bytes(b"a network")
    port, page = free_ports(2)
    assert server.main(["--name", "mine", "--port", str(port), "--dashboard-port", str(page)]) == 2
    assert "a hive would write over" in capsys.readouterr().err
    assert [path.name for path in (place / "runs" / "mine").iterdir()] == ["last.pt"]


FIRST_WORDS = [
    ("nonsense", "is not JSON"),
    (b"nonsense", "A control message was expected"),
    (protocol.pack("goodbye"), "The first message must be a hello"),
]
LATER_WORDS = [
    ("[" * 100_000, "is not JSON"),
    ('{"type": "goodbye", "more": 1}',
     "the message goodbye of version 3 of the protocol has the fields none"),
]


@pytest.mark.parametrize("word, sentence", FIRST_WORDS)
def test_nonsense_before_the_handshake_is_answered_with_a_sentence(quiet, word, sentence):
    with open_socket(quiet.port) as connection:
        connection.recv(timeout=LIMIT)
        connection.send(word)
        assert sentence in json.loads(connection.recv(timeout=LIMIT))["reason"]
    assert quiet.ask("/healthz")[0] == 200


@pytest.mark.parametrize("word, sentence", LATER_WORDS)
def test_nonsense_after_the_handshake_is_answered_with_a_sentence(here, quiet, word, sentence):
    client = here.client(quiet, f"rude-{random.getrandbits(64):x}").enter()
    client.socket.send(word)
    assert sentence.lower() in client.hear("refused")["reason"].lower()
    quiet.left(client.name)


def test_a_message_that_is_too_long_ends_the_connection(here, quiet):
    from websockets.exceptions import ConnectionClosedError
    client = here.client(quiet, "shouting").enter()
    with pytest.raises(ConnectionClosedError) as closed:
        client.socket.send("x" * (protocol.MESSAGE_BYTES + 1))
        client.hear("refused")
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009  # None: cut while sending
    quiet.hears("left      shouting")


def test_a_chunk_that_nobody_asked_for_is_answered_with_a_sentence(here, quiet):
    client = here.client(quiet, "eager").enter()
    client.socket.send(protocol.CHUNK_HEADER.pack(b"8 bytes!", 0) + b"surprise")
    assert "belongs to no transfer" in client.hear("refused")["reason"]


def test_of_a_peers_name_only_what_can_be_shown_reaches_a_terminal(here, quiet):
    client = here.client(quiet, "\x1b[2J\u202eevil\nname").enter()
    quiet.joined("[2Jevilname")
    client.say("goodbye")
    quiet.hears("left      [2Jevilname")
    assert "\x1b" not in quiet.said() and "\u202e" not in quiet.said()


# --------------------------------------------------------------------------------------------------
# Lies
# --------------------------------------------------------------------------------------------------

def counted(client):
    """Hold the weights of the round in which its update counted; others may have come before."""
    said = client.hear("commit")
    while not said["counted"]:
        said = client.hear("commit")
    client.hold(said)


def test_lies_are_rejected_while_the_run_goes_on_and_ends(here):
    hive = here.coordinator("--rounds", 25, "--min-peers", 2)
    honest = here.peer(hive, "honest")
    liar = here.client(hive, "liar").enter()
    blank = encode("q4", torch.zeros(liar.parameters))
    scales = 2 * (-(-liar.parameters // 128))
    lies = [
        ({}, blank[:-scales] + b"\xc0\x7f" * (scales // 2), "not finite"),
        ({}, blank[:-scales] + b"\x80\x7f" * (scales // 2), "not finite"),
        ({}, blank[:-1], "bytes, not"),
        ({}, b"short", "bytes, not"),
        ({"codec": "fp32"}, blank, "Updates are sent as q4 here"),
        ({"codec": "\ud800"}, blank, ""),
        ({"steps": 10 ** 6}, blank, "more than anybody was asked for"),
        ({"weights": "0" * 64}, blank, "weights that this hive never had"),
        ({"version": 10 ** 6}, blank, "weights that this hive never had"),
        ({"bytes": 10 ** 9}, blank, "bytes, not"),
    ]
    for number, (changes, update, sentence) in enumerate(lies):
        if number == MOST_REJECTED - 2:  # a good one in between, or it would have to leave
            liar.start()
            assert liar.deliver(blank)["verdict"] == "accepted"
            counted(liar)
        liar.start()
        said = liar.deliver(update, **changes)
        assert said.get("verdict", "refused") in ("rejected", "refused"), said
        assert sentence in said["reason"]
        if said["type"] == "refused":
            hive.left("liar")
            liar = here.client(hive, "liar", token=liar.token).enter()
    liar.start()
    assert liar.deliver(blank, tokens=10 ** 15)["verdict"] == "accepted"
    counted(liar)
    (name, verdict, tokens, _), = [one for one in hive.contributions(liar.version)
                                   if one[0] == "liar" and one[1] == "counted"]
    assert tokens < 10 ** 14
    while True:
        liar.ready()
        said = liar.hear("train", "finished", "commit")
        if said["type"] == "finished":
            liar.vanish()
            break
        if said["type"] == "train":
            liar.deliver(blank)
            said = liar.hear("commit")
        liar.hold(said)
    assert (honest.end(), hive.end()) == (0, 0)
    assert server.main(["--verify"]) == 0
    assert Counter(name for number in range(1, 26) for name in hive.counted(number))["honest"] >= 2


# --------------------------------------------------------------------------------------------------
# A hive at work, open to others: peers come and go
# --------------------------------------------------------------------------------------------------

BUSY = ("--host", "0.0.0.0", "--rounds", 100_000, "--allow-host", "dash.example", ".tunnel.example")


def busy_hive(place):
    """A coordinator that others can reach, so it has a key, and a peer that goes on and on."""
    hive = place.coordinator(*BUSY, run="busy")
    steady = place.client(hive, "steady", key=hive.key).enter()
    threading.Thread(target=steady.train_on, daemon=True).start()
    hive.reaches(2)
    return hive


@pytest.fixture(scope="module")
def busy(shared):
    """It stays for all tests of this file, in whatever order two processes share them out."""
    return busy_hive(shared)


def test_a_hive_that_others_can_reach_makes_a_key_and_keeps_it_to_itself(busy):
    assert len(busy.key) >= 32
    assert (busy.run / "key").read_text().strip() == busy.key
    if os.name == "posix":
        assert (busy.run / "key").stat().st_mode & 0o077 == 0
    assert busy.said().count(busy.key) == 1  # in the command that it printed
    for path in ("/", "/api/state"):
        assert busy.key.encode() not in busy.ask(path)[2]


@pytest.mark.parametrize("key", [(), ("--key", "wrong"), ("--key-file", "key.txt")])
def test_without_the_right_key_nobody_gets_in(busy, tmp_path, capsys, key):
    (tmp_path / "key.txt").write_text("f" * 32)
    assert join_here(busy, "--name", "stranger", *key) == 2
    assert "The key is wrong or missing: paste the join command" in capsys.readouterr().err
    busy.hears("stranger: The key is wrong or missing")
    assert not busy.member("stranger")
    busy.goes_on()


def test_the_dashboard_answers_what_it_should_and_nothing_else(busy):
    status, headers, content = busy.ask("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in headers["Content-Security-Policy"] and b"<html" in content
    assert busy.ask("/healthz")[::2] == (200, b"ok\n")
    state = busy.state()
    assert state["version"] >= 2 and state["finished"] == ""
    assert busy.member("steady")["device"] == "a test"
    for path in ("/../server.py", "/%2e%2e/server.py", "/server.py", "/key", "/runs/busy/key",
                 "//etc/passwd", "/journal.db", "/../runs/busy/last.pt", "/api", "/hive.js/.."):
        assert busy.ask(path)[0] == 404, path


def test_a_page_of_another_site_cannot_use_a_visitors_browser_to_join(busy):
    from websockets.exceptions import InvalidHandshake
    for port in (busy.port, busy.page):
        with pytest.raises(InvalidHandshake) as refused, open_socket(
                port, "/hive", origin="http://elsewhere.example"):
            pass
        assert refused.value.response.status_code == 403


def test_the_network_is_there_during_the_run(busy, tmp_path, capsys):
    busy.until(lambda: (busy.run / "last.pt").exists(), "no checkpoint came")
    status, _, content = busy.ask("/last.pt")
    assert status == 200
    (tmp_path / "download.pt").write_bytes(content)
    for source in (tmp_path / "download.pt", busy.run / "last.pt"):
        assert gltch.main(["sample", "--checkpoint", str(source), "--length", "10"]) == 0
    assert len(capsys.readouterr().out) >= 20
    assert not busy.state()["finished"]


def test_the_weights_of_every_round_can_be_had_while_it_trains(busy, tmp_path):
    busy.reaches(3)
    for number in range(4):
        status, headers, content = busy.ask(f"/model.safetensors?round={number}")
        assert status == 200 and content.endswith(weights_of(busy, number))
        with busy.journal() as journal:
            assert journal.at(number)[0] in headers["ETag"]
    (tmp_path / "model.safetensors").write_bytes(content)
    model, vocabulary = gltch.load(str(tmp_path / "model.safetensors"))
    assert to_bytes(flatten(model)) == weights_of(busy, 3)
    assert busy.ask("/model.safetensors?round=1000000")[0] == 404


def weights_of(hive, number):
    with hive.journal() as journal:
        return journal.weights_at(number, applying(Job.from_json(journal.run)))


def test_what_the_dashboard_tells_has_the_fields_and_types_that_are_documented(busy):
    assert_fits(busy.state(), State)
    assert_fits(json.loads(busy.ask("/api/peers")[2]), Everybody)
    kinds = {"state", "opened", "transfer", "closed", "committed", "measured", "peer"}
    with open_socket(busy.page, "/api/events") as page:
        while kinds:
            for event in json.loads(page.recv(LIMIT)):
                assert_is_event(event)
                kinds.discard(event["type"])


def test_what_the_journal_knows_is_on_the_dashboard(busy):
    busy.reaches(3)
    history = json.loads(busy.ask("/api/history?to=3")[2])
    assert (history["first"], history["last"], history["rounds"]) == (0, 3, [1, 2, 3])
    for number in (1, 2, 3):
        told = json.loads(busy.ask(f"/api/rounds/{number}")[2])
        assert told["loss"] == history["loss"][number - 1]
        assert [one["name"] for one in told["contributions"]] == busy.counted(number)
    assert busy.ask("/api/rounds/0")[0] == busy.ask("/api/rounds/1000000")[0] == 404
    known = {one["name"]: one for one in json.loads(busy.ask("/api/peers")[2])["contributors"]}
    assert known["steady"]["connected"] and known["steady"]["share"] > 0
    assert abs(sum(one["share"] for one in known.values()) - 1) < 1e-9


@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("127.0.0.1", 200), ("dash.example", 200), ("a.tunnel.example", 200),
    ("elsewhere.example", 421)])
def test_the_dashboard_answers_to_the_names_it_was_given(busy, host, status):
    connection = http.client.HTTPConnection("127.0.0.1", busy.page, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request("GET", "/api/state", headers={"Host": f"{host}:{busy.page}"})
        assert connection.getresponse().status == status


@posix
def test_a_late_joiner_catches_up_is_killed_comes_back_as_itself_and_says_goodbye(here, busy):
    """By the printed command, but the dashboard's port; with nothing of its own."""
    command = list(busy.join)
    command[command.index("--server") + 1] = f"ws://localhost:{busy.page}/hive"
    guest = here.paste(command, *ON_CPU, name="guest")
    busy.joined("guest")
    began = busy.state()["version"]
    busy.until(lambda: busy.contributor("guest")["rounds"] >= 1)
    identity = busy.member("guest")["peer"]
    cache = here.folder / "machines" / "guest" / "gltch" / "hive"
    texts = [path.read_bytes() for path in cache.glob("*.txt")]
    whole = (busy.run / "text.txt").read_bytes()  # ASCII: a byte is a character
    assert texts == [whole[: len(whole) * 9 // 10]] and whole == here.text.read_bytes()

    guest.kill()
    busy.left("guest")
    assert "left      guest" in busy.said()
    busy.goes_on()
    counted = busy.contributor("guest")["rounds"]

    guest = here.paste(command, *ON_CPU, name="guest")
    busy.until(lambda: busy.contributor("guest")["rounds"] > counted)
    assert busy.member("guest")["peer"] == identity == busy.contributor("guest")["peer"]
    assert began >= 2

    left = busy.said().count("left      guest")
    assert guest.interrupt() == 130
    assert "Left the hive." in guest.said()
    busy.hears("left      guest", times=left + 1)
    busy.goes_on()


@posix
def test_a_coordinator_that_is_stopped_goes_on_where_it_was(here):
    busy = busy_hive(here)
    assert busy.interrupt() == 130
    version, _, step = head_of(busy)
    assert f"Stopped after round {version}; the same command goes on." in busy.said()
    contributors = Counter()
    for number in range(1, version + 1):
        contributors.update(busy.counted(number))
    again = here.coordinator(*BUSY, run="busy")
    assert f"round {version}, step {step}" in again.said()
    assert again.key == busy.key
    known = json.loads(again.ask("/api/peers")[2])["contributors"]
    assert {one["name"]: one["counted"] for one in known if one["counted"]} == contributors


@pytest.mark.parametrize("content, sentence", [
    (None, "There is no key file"), (b"", "is empty"), (b"\xff\xfe\x00", "is not text")])
@pytest.mark.parametrize("main", [server.main, peer.main])
def test_a_key_file_without_a_key_is_one_sentence(place, capsys, main, content, sentence):
    if content is not None:
        (place / "hive.key").write_bytes(content)
    data = ["--data", str(place / "text.txt")] if main is server.main else []
    (place / "text.txt").write_text("to be or not to be, " * 400)
    assert main(["--key-file", "hive.key", *data]) == 2
    assert sentence in capsys.readouterr().err

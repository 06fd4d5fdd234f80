"""Why a peer was set aside is told from the record alone."""
import pytest
from builders import make_job

from gltch_2_7m import GltchError
from hive.journal import Journal
from hive.learning.sync import UNDO
from hive.reasons import explanation
from hive.session.record import Judgement, Record

HARM = "its updates raise the loss on text that no peer has"


def judgement(kind, version, score, reason="", peer="p0", **numbers):
    return Judgement(peer, kind, version, score, reason, numbers)


@pytest.fixture
def journal(tmp_path):
    """Of a peer that harmed, and one that did not."""
    journal = Journal(tmp_path / "hive")
    journal.start(make_job().as_json(), bytes(8))
    for peer, name in (("p0", "liar"), ("p1", "ann"), ("p2", "quiet"), ("p3", "liar")):
        journal.remember_peer(peer, name, f"token {peer}", "CPU", "cpu", 1.0)
    found = [[judgement("seen", 1, 1.0, cosine=0.7, usual=0.8),
              judgement("seen", 1, 1.0, peer="p1", cosine=0.9, usual=0.8)],
             [judgement("probed", 1, 0.3, HARM, gain=-0.01, doubt=0.001),
              judgement("aside", 1, 0.3, HARM)],
             [judgement("probed", 2, 0.75, gain=0.01, doubt=0.001, usual=None),
              judgement("back", 2, 0.75, "its work is good again")]]
    for number, judgements in enumerate(found, 1):
        base = journal.at(0)[0]
        journal.commit(Record(number, base, base, UNDO, str(number - 1).encode(), 0, 1.0, 1.0, 1.0,
                              (), tuple(judgements)))
    yield journal
    journal.close()


def test_each_finding_is_told_in_order_with_the_score_and_what_was_measured(journal):
    heading, *lines = list(explanation(journal, "liar"))[:-1]
    assert heading == "liar (p0): score 0.75; counts again: its work is good again"
    assert [one.split("score")[1][:6].strip() for one in lines] == [
        "1.00", "0.30", "0.30", "0.75", "0.75"]
    assert "round     1" in lines[0]
    assert "beside the others (agrees with the others by 0.7" in lines[0]
    assert f"tried by itself: {HARM} (the loss fell by -0.01, give or take 0.001)" in lines[1]
    assert lines[2].endswith(f"SET ASIDE: {HARM}")
    assert lines[4].endswith("COUNTS AGAIN: its work is good again")


def test_peers_of_the_same_name_are_told_apart_and_others_left_out(journal):
    *_, last = explanation(journal, "liar")
    assert last == "liar (p3): nothing was found of it yet"
    assert len(list(explanation(journal, "ann"))) == 2


def test_while_the_run_goes_on_it_is_read_and_not_changed(journal):
    reader = Journal(journal.folder, read_only=True)
    assert list(explanation(reader, "liar")) == list(explanation(journal, "liar"))
    reader.close()


def test_who_was_never_there_is_a_sentence(journal):
    with pytest.raises(GltchError, match="No peer called 'nobody' .* are: ann, liar, quiet"):
        list(explanation(journal, "nobody"))

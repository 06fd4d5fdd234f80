"""A plugin of pytest: all that sessions are told by hand (tests/hand.py), and what they answer,
goes into the file RECORDED."""
import json
import os
from pathlib import Path


def pytest_configure():
    import hand
    from test_session_in_node import Recorded
    hand.PeerSession = Recorded


def pytest_sessionfinish():
    from test_session_in_node import Recorded
    Path(os.environ["RECORDED"]).write_text(json.dumps(Recorded.conversations))

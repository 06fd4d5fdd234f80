"""What the tests of a browser's peer share."""
import pytest
from in_node import ask_node


@pytest.fixture
def ask(node):
    """ask(subject, questions): the answers, by tests/page/peer/golden.js."""
    return lambda subject, questions: ask_node(node, "golden.js", questions, subject)

"""What a browser's peer computes, asked of node: questions and answers in JSON."""
import base64
import json
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent / "page" / "peer"


def ask_node(node, script, questions, *arguments):
    answer = subprocess.run([node, str(SCRIPTS / script), *arguments], input=json.dumps(questions),
                            check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return json.loads(answer.stdout)


def base64_of(content):
    return base64.b64encode(content).decode()

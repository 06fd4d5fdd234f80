"""Short programs to begin with: python -m examples.own_text my.txt"""
from hive import require_pytorch

require_pytorch("examples")

"""The Hive: peers that come and go and together train one model."""
import os
import sys
import warnings
from importlib.util import find_spec

# PyTorch's note to itself, when it is imported after this
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")


def require_pytorch(program: str) -> None:
    """One sentence instead of the traceback of an import."""
    if find_spec("torch") is None:
        print(f"{program}: error: PyTorch is missing: pip install torch requests websockets",
              file=sys.stderr)
        sys.exit(2)


def say_loading() -> None:
    """The first line of a program that loads PyTorch, which takes seconds."""
    asks = {"-h", "--help"} & set(sys.argv)
    if sys.stderr and not asks and os.environ.get("RANK", "0") == "0":
        print("loading   PyTorch", file=sys.stderr, flush=True)

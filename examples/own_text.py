"""Train on a text of your own: python -m examples.own_text my.txt"""
import argparse

from gltch_2_7m import PRESETS, GltchError, TrainConfig, load_corpus, train

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("text", help="a file, or a folder of them")
parser.add_argument("steps", type=int, nargs="?", default=300)
args = parser.parse_args()

config = PRESETS["1m"][0]  # or "2.7m", "10m", ...: larger ones want more text and more time
try:
    recipe = TrainConfig(steps=args.steps, batch_size=16, sample_every=0)
    result = train(config, recipe, load_corpus([args.text]))
except GltchError as error:  # one sentence that says what is wrong
    parser.error(str(error))
print(f"validation loss {result.val_loss:.4f}; now: python -m examples.write {result.folder}")

"""Train on a text of your own: python -m examples.own_text my.txt"""
import sys

from gltch_2_7m import PRESETS, TrainConfig, load_corpus, train

path, steps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 300
config = PRESETS["1m"][0]  # or "2.7m", "10m", ...: larger ones want more text and more time
recipe = TrainConfig(steps=steps, batch_size=16, sample_every=0)
result = train(config, recipe, load_corpus([path]))
print(f"validation loss {result.val_loss:.4f}; now: python -m examples.write {result.folder}")

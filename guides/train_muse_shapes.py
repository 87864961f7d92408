"""Trains the embedded preset `muse_shapes` from nothing.

    python guides/train_muse_shapes.py --folder runs/muse_shapes

It trains the image tokenizer, then the base transformer together with its small text
encoder, and writes a preset. Everything is drawn from one seed. Kill it whenever you
like: the same command goes on from the last checkpoint. It runs on CPU or on a GPU, on
every backend; on CPU `KERAS_BACKEND=torch` is the fastest.

What to expect (two CPU cores, PyTorch):
    tokenizer   128,000 pictures, 10 minutes: PSNR passes 30 dB after 35,000 pictures
                and caption agreement through the reconstruction 98 % after 60,000.
    base        the loss starts at ln(512) = 6.2. It falls below 1 within 10,000
                pictures, while the model learns backgrounds and positions. Then the
                gap of `uncond - cond`, the cross-entropy of object tokens on an empty
                canvas without and with the caption, opens: the text is being used.
                Exact agreement stays near 0 until long after. Counting comes late.
The log of the run that made the preset is in benchmarks/results/train_muse_shapes/.
"""

import argparse
import os

# The fastest on a CPU, where its bfloat16 is real.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def main():
    """Reads the command line and runs the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", default="runs/muse_shapes")
    parser.add_argument("--tokenizer-steps", type=int, default=3600)
    parser.add_argument("--pictures", type=int, default=480_000)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--steps-per-epoch", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    from keras_muse.recipes import muse_shapes

    print("preset:", muse_shapes.train(**vars(options)))


if __name__ == "__main__":
    main()

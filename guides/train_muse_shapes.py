"""Trains the embedded preset `muse_shapes` from nothing.

    python guides/train_muse_shapes.py --folder runs/muse_shapes

It trains the image tokenizer, then the base transformer together with its small text
encoder, and writes a preset. Everything is drawn from one seed. Kill it whenever you
like: the same command goes on from the last checkpoint. It runs on CPU or on a GPU, on
every backend. The recipe itself is keras_muse/recipes/muse_shapes.py; the command
`keras-muse train-shapes` runs it too.

On Linux, keep glibc from handing memory back after every tensor:
    export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184

What to expect (one CPU core for each figure):
    tokenizer   115,200 pictures in 10 minutes on PyTorch. PSNR passes 30 dB and half of
                the 512 codes are used after 32,000 pictures; caption agreement through
                the reconstruction passes 98 % after 80,000 and ends at 100 %.
    base        320,000 pictures in 47 minutes on TensorFlow. The loss starts at
                ln(512) = 6.2 and is 0.7 after 32,000 pictures, when backgrounds and
                neighbours are learned; the loss at low mask rates, where most of the
                picture is seen, goes on falling to 0.1. `cond` against `uncond`, the
                cross-entropy of object tokens on an empty canvas with and without the
                caption, says whether the text is used: 4.3 against 7.7 after 64,000.
                Exact agreement comes last, one group long before two.
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
    parser.add_argument("--pictures", type=int, default=560_000)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--steps-per-epoch", type=int, default=250)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()

    from keras_muse.recipes import muse_shapes

    print("preset:", muse_shapes.train(**vars(options)))


if __name__ == "__main__":
    main()

"""Trains the embedded preset `muse_shapes` from nothing.

    python guides/train_muse_shapes.py --folder runs/muse_shapes

It trains the image tokenizer, then the base transformer together with its small text
encoder, first on lessons (keras_muse/recipes/lessons.py), then, with both frozen, the
second stage of 128 x 128 pixels with its own tokenizer and a larger decoder, and writes
a preset.
Everything is drawn from one seed. Kill it whenever you like: the same command goes on
from the last checkpoint. It runs on CPU or on a GPU, on every backend. The recipe
itself is keras_muse/recipes/muse_shapes.py; the command `keras-muse train-shapes`
runs it too. The settings of the sampler count as much as the training does: see
benchmarks/results/samplers.md.

On Linux, keep glibc from handing memory back after every tensor:
    export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184

What to expect (one CPU core for each figure):
    tokenizer   115,200 pictures in 10 minutes on PyTorch. PSNR passes 30 dB and half of
                the 512 codes are used after 32,000 pictures; caption agreement through
                the reconstruction passes 98 % after 80,000 and ends at 100 %.
    lessons     32,000 pictures in 4 minutes on TensorFlow: crowded scenes, everything
                said, all tokens masked. Afterwards a caption with its relation turned
                round, or with its colours swapped, costs 3 nats for each object token.
                Without them it costs nothing even after 300,000 pictures: the text
                encoder stays a bag of words, and two groups swap colours and places.
    base        515,000 pictures in an hour. The loss is 0.56 after 48,000 pictures and
                0.42 after 320,000, and falls again when the learning rate does. Look at
                `cond`, the cross-entropy of object tokens on an empty canvas: 3.3 after
                128,000, against 5.9 with the relation turned round (`cond_turned`) and
                7.5 without the caption (`uncond`). Exact agreement comes last: how many
                objects there are is learned after where and what.
    prolonged   `--initial-preset PRESET --pictures 480000` goes on with the base, its
                text encoder frozen: 100 minutes. The loss of the last 64,000 pictures
                is 0.395 (before: 0.401); exact agreement of the preset rises from 65.1
                to 70.6 %. Once more from there, `--pictures 208000 --seed 207
                --precision float32`: 83 minutes on a core without bfloat16, loss
                0.387. Other scenes each time, since each has a seed of its own.
    cascade     High-res tokenizer: 28,800 pictures in 13 minutes on PyTorch, 36.9 dB,
                agreement 100 %. Super-resolution: its low-res tokens say nearly all,
                so the loss stays at 3 nats for 10,000 pictures and is 0.002 after
                32,000 (20 minutes). Larger decoder: 28,800 pictures in 45
                minutes, 42.6 dB (the shipped one: 19,200, and once more 9,600 from
                there; a decoder like the encoder has 39.3 dB after 28,800). The second
                stage saw the tokens of downscaled pictures, which lack two of those
                that the base draws; the recipe now takes those of pictures drawn at
                64 pixels, and in the shipped weights the two embeddings are copies of
                those that stand for the same cells.
    codes       At the end, those that no picture of the world has (170 of 512, 360 of
                1,024) are moved out of reach. A generated picture, which is not as
                clean as a drawn one, was read as such codes in 61 % of its cells, and
                could not be edited; now it is read as what it was made of, 99.9 %.
The logs of the runs that made the preset are in benchmarks/results/train_muse_shapes/.
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
    parser.add_argument("--super-resolution-pictures", type=int, default=40_000)
    parser.add_argument("--initial-preset")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--test-pictures", type=int, default=500)
    options = parser.parse_args()

    from keras_muse.recipes import muse_shapes

    print("preset:", muse_shapes.train(**vars(options)))


if __name__ == "__main__":
    main()

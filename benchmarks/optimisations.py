"""What each optimisation of decoding is worth: seconds of a picture without it.

    python benchmarks/optimisations.py

The model and settings of decode.py (256 tokens, 18 steps, guidance 3, the largest 820
logits, float32), on one backend. Each row undoes one thing that decoding does and makes
the same picture the slow way; but for the rows that say so, the tokens are the same.
Rows are processes with one thread on one core, in turns; medians over the rounds, and
how much longer than with all of them.
"""

import argparse
import functools
import shlex
import sys

import decode as pictures
import ours
import peers
from processes import (
    KEEP_MEMORY,
    Row,
    about,
    answer,
    environment,
    footer,
    in_turns,
    spread,
)
from tables import markdown, three_digits, write

STEPS = pictures.SETTINGS["maskgit"]["num_steps"]


def nothing(muse):
    """As it is."""


def one_step_a_call(muse):
    """Python between the steps."""
    muse.wants_each_step = True


def text_each_step(muse):
    """Keys and values of the text are computed in every step."""
    from keras_muse.models import stages

    before = stages.guided_prediction

    def prediction(transformer, memory, guided, always=True):
        def predict(ids, guidance):
            # Depends on the ids, or the compiler would take it out of the loop.
            zero = 0.0 * ids[0, 0]
            text = {**memory, "text_embeddings": memory["text_embeddings"] + zero}
            projected = transformer.project_memory(text)
            return before(transformer, projected, guided, always)(ids, guidance)

        return predict

    stages.guided_prediction = prediction
    # What is handed to the loop is the text itself.
    muse._project_memory = lambda index, text, guided, low: stages.pass_inputs(
        text, guided, low
    )


def passes_apart(muse):
    """Conditional and unconditional pass one after the other."""
    from keras import ops, tree

    from keras_muse.models import stages

    def prediction(transformer, memory, guided, always=True):
        def predict(ids, guidance):
            parts = [
                tree.map_structure(lambda x: ops.split(x, 2)[i], memory)
                for i in range(2)
            ]
            hidden = [transformer.features(ids, part) for part in parts]
            return transformer.head(
                stages._mixed(ops.concatenate(hidden), guidance, True)
            )

        return predict

    stages.guided_prediction = prediction


def head_before_guidance(muse):
    """Logits of both passes, and the guidance of them."""
    from keras_muse.models import stages

    def prediction(transformer, memory, guided, always=True):
        def predict(ids, guidance):
            hidden = transformer.features(stages._of_passes(ids, True), memory)
            return stages._mixed(transformer.head(hidden), guidance, True)

        return predict

    stages.guided_prediction = prediction


def gumbel_draw(muse):
    """The largest of logits plus Gumbel noise over the codebook; other tokens."""
    import keras
    from keras import ops

    from keras_muse.decoding import sampler

    def draw(logits, noise):
        # As many numbers as logits, as fast as the backend makes them.
        generator = keras.random.SeedGenerator(0)
        uniform = keras.random.uniform(ops.shape(logits), 1e-7, 1.0, seed=generator)
        noisy = logits - ops.log(-ops.log(uniform))
        tokens = ops.cast(ops.argmax(noisy, axis=-1), "int32")
        return tokens, sampler.log_probability(logits, tokens)

    sampler.sample_scored = draw


def one_level_draw(muse):
    """One cumulative sum over the whole codebook."""
    from keras import ops

    from keras_muse.decoding import sampler

    def draw(logits, noise):
        sums = ops.cumsum(ops.exp(logits - ops.max(logits, -1, keepdims=True)), axis=-1)
        below = sums <= noise[..., None] * sums[..., -1:]
        tokens = ops.sum(ops.cast(below, "int32"), axis=-1)
        return tokens, sampler.log_probability(logits, tokens)

    sampler.sample_scored = draw


def sorted_filter(muse):
    """`top_k` in place of the bisection."""
    from keras import ops

    from keras_muse.decoding import sampling

    def keep(logits, weights, target):
        least = ops.top_k(logits, int(target), sorted=True)[0][..., -1:]
        return ops.where(logits >= least, logits, -1e9)

    sampling._keep_heaviest = keep


def dense_as_it_comes(muse):
    """Dense layers on (B, N, D)."""
    import keras

    from keras_muse.layers import Dense

    Dense.call = keras.layers.Dense.call


ROWS = {
    "all of them": nothing,
    "a call for each step": one_step_a_call,
    "text keys and values in each step": text_each_step,
    "the two passes apart": passes_apart,
    "guidance behind the head": head_before_guidance,
    "Gumbel noise over the codebook (other tokens)": gumbel_draw,
    "one cumulative sum over the codebook": one_level_draw,
    "`top_k` instead of bisection": sorted_filter,
    "Dense on three axes": dense_as_it_comes,
    # What the default schedule gains: a pass less. Another picture.
    "all of them, ramp of guidance (other tokens)": nothing,
}


def timed(name):
    """What `answer` needs."""
    import keras
    import numpy as np

    # The same weights in each process.
    keras.utils.set_random_seed(0)
    settings = {"guidance_schedule": "constant", **pictures.SETTINGS["maskgit"]}
    if "ramp" in name:
        settings["guidance_schedule"] = "linear"
    muse = ours.muse(ours.LIKE_MASKGIT, "float32", **settings)
    muse.wants_each_step = False
    ROWS[name](muse)
    seeds = np.zeros(1, "int32")

    def function(warm_up):
        steps = 2 if warm_up else STEPS
        samplers = [muse.samplers[0].replace(num_steps=steps)]
        callback = (lambda *_: None) if muse.wants_each_step else None
        tokens = muse.generate_tokens([peers.PROMPT], None, seeds, samplers, callback)
        return {"tokens": tokens[0][0].tolist()}

    return function, {}


def main():
    """Reads the command line, writes optimisations.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="jax", choices=pictures.BACKENDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        answer(lambda: timed(options.row))
        return
    starts = {}
    variables = environment(options.backend, **KEEP_MEMORY)
    for name in ROWS:
        arguments = ["--row", name]
        values = "optimisations.py", arguments, options.core, variables, 900
        starts[name] = functools.partial(Row, *values)
    found = in_turns(starts, options.rounds)
    whole, *_ = spread(found["all of them"])
    wanted = found["all of them"]["answers"][0].get("tokens")
    table = {}
    for name, row in found.items():
        if "failed" in row:
            table[name] = {"seconds": row["failed"]}
            continue
        median, low, high = spread(row)
        same = share_equal(row["answers"][0]["tokens"], wanted)
        table[name] = {
            "seconds": three_digits(median),
            "fastest, slowest": f"{three_digits(low)}, {three_digits(high)}",
            "to all of them": f"{median / whole:.2f}",
            "equal tokens": f"{same:.0%}",
        }
        for each in row["answers"]:
            del each["tokens"]
    title = f"One picture without one optimisation each, {options.backend}, float32"
    text = markdown(title, table)
    text += "\nWithout the image decoder.\n"
    given = shlex.join(["python", "benchmarks/optimisations.py", *sys.argv[1:]])
    report = {**about(), "backend": options.backend, "rows": found}
    write("optimisations", report, text + footer(given))


def share_equal(tokens, others):
    """Share of equal ones."""
    return sum(a == b for a, b in zip(tokens, others)) / len(tokens)


if __name__ == "__main__":
    main()

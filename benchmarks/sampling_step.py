"""Milliseconds of one step from logits to tokens, ours and two peers'.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python benchmarks/sampling_step.py

From the logits of 256 tokens over 8,192 codes to the tokens of the next step, about
half of them masked: draw, confidence, who stays. Without a filter, as the scheduler's
step of `diffusers` does it, and with the largest 820 logits alone, as
`muse-maskgit-pytorch` does it. The step of the latter is inside of `MaskGit.generate`,
which is run with a transformer that returns the same logits each time and an image
tokenizer that does nothing; a step is an 18th of its 18 steps.

Ours is one step of `keras_muse.decoding.decode`, compiled as `generate` compiles it,
and then its parts, each compiled alone. Rows are processes with one thread on one core,
in turns. An answer is the mean over `--repeats` steps; each row shows the median over
the rounds.
"""

import argparse
import functools
import shlex
import sys
import time

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

N = peers.SIDE * peers.SIDE
STEPS, STEP = 18, 9
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
UNFILTERED, FILTERED = "no filter", f"top {peers.TOP_K}"
SCHEDULER = f"diffusers AmusedScheduler, {UNFILTERED}"
MASKGIT = f"{peers.MASKGIT}, {FILTERED}"
STEPS_OF_OURS = {UNFILTERED: None, FILTERED: peers.TOP_K}
PARTS = ("filter", "draw", "confidence", "noise")


def logits_and_ids():
    """(1, N, V) float32 as of a model, and (1, N) int64, half of them masked."""
    import numpy as np

    rng = np.random.default_rng(0)
    logits = 3.0 * rng.normal(size=(1, N, peers.CODES)).astype("float32")
    ids = rng.integers(0, peers.CODES, (1, N))
    ids[:, rng.permutation(N)[: N // 2]] = peers.CODES
    return logits, ids


def our_function(what):
    """One call of ours: a step with a filter or without, or a part of it."""
    import keras
    from keras import ops

    from keras_muse.decoding import (
        Sampler,
        decode,
        filter_logits,
        gumbel,
        log_probability,
        sample_tokens,
        uniform,
    )
    from keras_muse.models.compilation import compile_inference

    def step(logits, ids, seeds, index):
        return decode(
            lambda ids, guidance: logits,
            ids,
            seeds,
            Sampler(STEPS, top_k=STEPS_OF_OURS[what]),
            peers.CODES,
            start=index,
            stop=index + 1,
            fillable=ops.ones((1, N), "bool"),
        )

    parts = {
        "filter": lambda logits, ids, seeds, index: filter_logits(
            logits, top_k=peers.TOP_K
        ),
        "draw": lambda logits, ids, seeds, index: sample_tokens(
            logits, uniform(seeds, 0, index, 0, N)
        ),
        "confidence": lambda logits, ids, seeds, index: log_probability(
            logits, ops.minimum(ids, peers.CODES - 1)
        ),
        "noise": lambda logits, ids, seeds, index: gumbel(seeds, 0, index, 1, N),
    }
    logits, ids = logits_and_ids()
    inputs = [
        ops.convert_to_tensor(logits),
        ops.convert_to_tensor(ids, "int32"),
        ops.convert_to_tensor([7], "int32"),
        ops.convert_to_tensor(STEP, "int32"),
    ]
    function = compile_inference(keras.Sequential(), parts.get(what, step))
    return lambda: ops.convert_to_numpy(function(*inputs))


def scheduler_step():
    """One step of `AmusedScheduler`."""
    import torch

    peers.hide_torchvision()
    from diffusers import AmusedScheduler

    scheduler = AmusedScheduler(mask_token_id=peers.CODES)
    scheduler.set_timesteps(STEPS)
    logits, ids = (torch.from_numpy(array) for array in logits_and_ids())
    # Its transformer has the codes in front of the rows and columns.
    logits = logits.transpose(1, 2).reshape(1, peers.CODES, peers.SIDE, peers.SIDE)
    logits, ids = logits.contiguous(), ids.reshape(1, peers.SIDE, peers.SIDE)
    timestep = scheduler.timesteps[STEP]

    def step():
        with torch.no_grad():
            scheduler.step(logits, timestep, ids)

    return step


def maskgit_steps():
    """All steps of `MaskGit.generate`, and nothing but what samples."""
    import torch

    logits, _ = logits_and_ids()
    logits = torch.from_numpy(logits)
    model = peers.maskgit("float32", peers.MaskGitSize(vae_dim=16))
    peers.give_text(model, "float32")
    model.transformer.forward_with_cond_scale = lambda *_, **__: (logits, None)
    model.vae.decode_from_ids = lambda ids: ids
    return lambda: model.generate([peers.PROMPT], timesteps=STEPS)


def timed(row, repeats):
    """What `answer` needs: seconds of a step by their mean over `repeats`."""
    calls, steps = repeats, 1
    if row == SCHEDULER:
        function = scheduler_step()
    elif row == MASKGIT:
        function = maskgit_steps()
        calls, steps = max(repeats // STEPS, 1), STEPS
    else:
        function = our_function(row)

    def measure(warm_up):
        started = time.perf_counter()
        for _ in range(1 if warm_up else calls):
            function()
        return {"step": (time.perf_counter() - started) / (calls * steps)}

    return measure, {}


def rows():
    """{name: (backend or None, what the process is asked for)}."""
    found = {SCHEDULER: (None, SCHEDULER), MASKGIT: (None, MASKGIT)}
    for what in (*STEPS_OF_OURS, *PARTS):
        for backend, name in BACKENDS.items():
            part = what if what in STEPS_OF_OURS else f"its {what} alone"
            found[f"ours, {name}, {part}"] = (backend, what)
    return found


def table_of(found):
    """The cells of every row."""
    medians = {
        name: spread(row, "step")[0]
        for name, row in found.items()
        if "failed" not in row
    }
    table = {}
    for name, row in found.items():
        if "failed" in row:
            table[name] = {"ms": row["failed"]}
            continue
        median, low, high = (1000 * seconds for seconds in spread(row, "step"))
        table[name] = {
            "ms": three_digits(median),
            "fastest, slowest": f"{three_digits(low)}, {three_digits(high)}",
        }
        for peer, what in ((SCHEDULER, UNFILTERED), (MASKGIT, FILTERED)):
            if peer in medians and name.endswith(what):
                ratio = medians[peer] / medians[name]
                table[name]["times the peer's"] = f"{ratio:.2f}"
    return table


def main():
    """Reads the command line, writes sampling_step.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=36)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300, help="seconds")
    parser.add_argument("--name", default="sampling_step", help="of the results")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        answer(lambda: timed(options.row, options.repeats))
        return
    starts = {}
    for name, (backend, what) in rows().items():
        arguments = ["--row", what, "--repeats", str(options.repeats)]
        variables = environment(backend, **KEEP_MEMORY)
        starts[name] = functools.partial(
            Row, "sampling_step.py", arguments, options.core, variables, options.limit
        )
    found = in_turns(starts, options.rounds)
    given = shlex.join(["python", "benchmarks/sampling_step.py", *sys.argv[1:]])
    title = f"One step from logits to tokens, {N} x {peers.CODES}"
    text = markdown(title, table_of(found)) + footer(given)
    report = {**about(), "rounds": options.rounds, "rows": found}
    write(options.name, report, text)
    sys.exit(any("failed" in row for row in found.values()))


if __name__ == "__main__":
    main()

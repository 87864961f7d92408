"""Seconds of a picture, ours on three backends and two peers', of equal size.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python benchmarks/decode.py                     # all rows, five rounds
    python benchmarks/decode.py --only float32 --rounds 9
    python benchmarks/decode.py --sections amused   # one of the two tables
    python benchmarks/decode.py --gpu --batch 16 --name decode_gpu_batch

Two tables. `maskgit`: the base model of training_step.py and a VQGAN of 256 pixels,
18 steps, guidance 3, the largest 820 of 8,192 logits, through `MaskGit.generate` of
`muse-maskgit-pytorch` and `MuseTextToImage.generate`. `amused`: a small
`AmusedPipeline` with the tokens and codes of `amused-256`, 12 steps, guidance 10, no
filter of logits, and a model of ours whose steps have as many products. Weights are
untrained, prompts one, all precisions those of all weights and activations.

Every row is a process with one thread on one core (`--core`; nothing else may run
there, nor much on the others), all of them in turns; the row shows the median over the
rounds. A row that needs more than `--limit` seconds for one picture is given up and the
table says so. Differences: the peer of the first table is given its text embeddings,
ours encode prompt and null caption with a thin encoder (under a thousandth of the
products). Both passes of guidance count.

`GFLOP` is what PyTorch's counter of matrix products and convolutions counts for one
picture in float32, in the peer's and in our PyTorch row; `share of peak` is GFLOP over
seconds over the best that any of NumPy, PyTorch, JAX and TensorFlow reached in the same
rounds with the products of the base model alone, in float32.

With `--gpu` all rows run on the GPU, with as many threads as they like and float32
products in TF32 for all of them; there is no share of a peak, and no row of a library
that is not installed.
"""

import argparse
import functools
import importlib.util
import shlex
import sys
import tempfile
import time

import ours
import peers
from processes import (
    FREE_MEMORY,
    KEEP_MEMORY,
    Failed,
    Row,
    about,
    answer,
    environment,
    footer,
    in_turns,
    once,
    spread,
)
from tables import markdown, three_digits, write

BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
# Steps, guidance, and what else of our sampler.
SETTINGS = {
    "maskgit": {"num_steps": 18, "guidance_scale": 3.0, "top_k": peers.TOP_K},
    "amused": {"num_steps": 12, "guidance_scale": 10.0},
}
PEERS = {"maskgit": peers.MASKGIT, "amused": peers.AMUSED}
SIZES = {"maskgit": ours.LIKE_MASKGIT, "amused": ours.LIKE_AMUSED_SMALL}
PRECISIONS = {
    "maskgit": ("float32", "bfloat16", "mixed_bfloat16", "int8"),
    "amused": ("float32", "bfloat16"),
}
# (rows, inner, columns) of the products of the base model; both passes are 512 rows.
SHAPES = (
    (512, peers.WIDTH, peers.WIDTH),
    (512, peers.WIDTH, 2 * peers.INNER),
    (512, peers.INNER, peers.WIDTH),
    (256, peers.WIDTH, peers.CODES),
)


def rows_of(section):
    """{name: (backend or None for the peer, precision)} of a table."""
    rows = {
        f"{PEERS[section]} {precision}": (None, precision)
        for precision in ("float32", "bfloat16")
    }
    for precision in PRECISIONS[section]:
        for backend, name in BACKENDS.items():
            if importlib.util.find_spec(backend):
                rows[f"ours, {name} {precision}"] = (backend, precision)
    return rows


def chosen_rows(section, ends):
    """Those of `rows_of` whose names end in one of several ways; all without any."""
    return {
        name: row
        for name, row in rows_of(section).items()
        if not ends or any(name.endswith(f" {end}") for end in ends)
    }


def our_model(section, precision):
    """A `MuseTextToImage`."""
    settings = {"guidance_schedule": "constant", **SETTINGS[section]}
    return ours.muse(SIZES[section], precision, **settings)


def our_picture(section, precision, batch, preset):
    """A function of the number of steps that makes pictures, and the parameters."""
    policy = "float32" if precision == "int8" else precision
    if preset is None:
        muse = our_model(section, policy)
    else:
        from keras_muse.models import MuseTextToImage

        muse = MuseTextToImage.from_preset(preset, dtype=policy)
    count = muse.backbone.count_params()
    if precision == "int8":
        muse.quantize("int8")

    def make(steps):
        muse.generate([peers.PROMPT] * batch, num_steps=steps, seed=0)

    return make, count


def their_picture(section, precision, batch):
    """The same of the peer."""
    import torch

    scale, prompts = SETTINGS[section]["guidance_scale"], [peers.PROMPT] * batch
    torch.manual_seed(0)
    if section == "maskgit":
        model = peers.maskgit(precision).to(peers.device())
        peers.give_text(model, precision)

        def make(steps):
            # Pixels are what is waited for.
            model.generate(prompts, timesteps=steps, cond_scale=scale).cpu()

        return make, peers.count(model)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = peers.amused(peers.AMUSED_SMALL, folder)
    pipeline.to(peers.device(), getattr(torch, precision))

    def make(steps):
        pipeline(prompts, num_inference_steps=steps, guidance_scale=scale)

    parts = pipeline.transformer, pipeline.vqvae, pipeline.text_encoder
    return make, peers.count(*parts)


def picture(section, name, batch, preset=None):
    """Of a row; ours is loaded from a preset if there is one."""
    backend, precision = rows_of(section)[name]
    if backend:
        return our_picture(section, precision, batch, preset)
    return their_picture(section, precision, batch)


def timed_picture(section, name, batch):
    """What `answer` needs."""
    make, parameters = picture(section, name, batch)
    steps = SETTINGS[section]["num_steps"]

    def function(warm_up):
        # Two steps trace, compile and touch all that more of them do.
        make(2 if warm_up else steps)

    return function, {"parameters": parameters}


def products(section, name):
    """GFLOP of one picture: the first two steps tell those of any number."""
    from torch.utils.flop_counter import FlopCounterMode

    make, _ = picture(section, name, batch=1)
    counts = []
    for steps in (1, 2):
        with FlopCounterMode(display=False) as counter:
            make(steps)
        counts.append(counter.get_total_flops() / 1e9)
    one, two = counts
    return one + (SETTINGS[section]["num_steps"] - 1) * (two - one)


def multiplication(library):
    """A function of a shape that returns a function which multiplies once."""
    import numpy as np

    def pair(shape):
        rng = np.random.default_rng(0)
        rows, inner, columns = shape
        sizes = (rows, inner), (inner, columns)
        return [rng.normal(size=size).astype("float32") for size in sizes]

    def prepare(shape):
        a, b = pair(shape)
        if library == "torch":
            import torch

            a, b = torch.from_numpy(a), torch.from_numpy(b)
        elif library == "tensorflow":
            import tensorflow as tf

            a, b = tf.constant(a), tf.constant(b)
            return lambda: tf.matmul(a, b).numpy()
        elif library == "jax":
            import jax

            a, b = jax.device_put(a), jax.device_put(b)
            function = jax.jit(lambda a, b: a @ b)
            return lambda: function(a, b).block_until_ready()
        return lambda: a @ b

    return prepare


def timed_products(library):
    """The best rate of one library, in GFLOP a second."""
    prepare = multiplication(library)
    functions = {shape: prepare(shape) for shape in SHAPES}

    def function(warm_up):
        best = 0.0
        for (rows, inner, columns), multiply in functions.items():
            for _ in range(1 if warm_up else 20):
                started = time.perf_counter()
                multiply()
                seconds = time.perf_counter() - started
                best = max(best, 2e-9 * rows * inner * columns / seconds)
        return {"rate": best}

    return function, {}


def cells(row, peak, gflop, reference, same):
    """The cells of a row of a table.

    Args:
        row: of `in_turns`.
        peak: float, GFLOP a second, or `None`.
        gflop: float, of what is timed.
        reference: median of the peer in float32, or `None`.
        same: median of the peer in the row's own precision, or `None`.
    """
    if "failed" in row:
        return {"seconds": row["failed"]}
    median, low, high = spread(row)
    share = {"share of peak": f"{gflop / median / peak:.0%}"} if peak else {}
    return {
        "parameters": f"{row['facts']['parameters'] / 1e6:.1f} M",
        "seconds": three_digits(median),
        "fastest, slowest": f"{three_digits(low)}, {three_digits(high)}",
        "CPU seconds": three_digits(spread(row, "cpu")[0]),
        "times the peer's float32": f"{reference / median:.2f}" if reference else "",
        "times the peer's own": f"{same / median:.2f}" if same else "",
        "GFLOP": f"{gflop:.0f}",
        **share,
    }


def section_table(section, found, peak, gflop, batch):
    """The table of a section."""
    rows = rows_of(section)

    def peer_median(precision):
        row = found.get(f"{PEERS[section]} {precision}", {"failed": "not asked for"})
        return None if "failed" in row else spread(row)[0]

    table = {}
    for name, row in found.items():
        backend, precision = rows[name]
        own = "bfloat16" if precision == "mixed_bfloat16" else precision
        products = batch * gflop["ours" if backend else "peer"]
        values = peak, products, peer_median("float32"), peer_median(own)
        table[name] = cells(row, *values)
    steps = SETTINGS[section]["num_steps"]
    scale = SETTINGS[section]["guidance_scale"]
    pictures = "A picture" if batch == 1 else f"{batch} pictures"
    title = f"{pictures} of 256 tokens, {steps} steps, guidance {scale:g}"
    return markdown(f"{title}, against {PEERS[section]}", table)


def measure(options):
    """Everything: the report, and the text of the tables."""
    core = None if options.gpu else options.core

    def variables(backend):
        # The library that makes the row is the only one that it has to load.
        memory = FREE_MEMORY if options.gpu else KEEP_MEMORY
        return environment(backend, options.gpu, **memory)

    def start(arguments, backend):
        arguments = [*arguments, "--batch", str(options.batch)]
        return Row("decode.py", arguments, core, variables(backend), options.limit)

    starts, gflop = {}, {}
    for section in options.sections:
        for name, (backend, _) in chosen_rows(section, options.only).items():
            arguments = ["--row", section, name]
            starts[section, name] = functools.partial(start, arguments, backend)
        gflop[section] = {}
        for kind, name in (
            ("peer", f"{PEERS[section]} float32"),
            ("ours", "ours, PyTorch float32"),
        ):
            arguments = ["--count", section, name]
            gflop[section][kind] = once(
                "decode.py", arguments, core, variables("torch"), options.limit
            )
    for library in () if options.gpu else ("numpy", *BACKENDS):
        arguments = ["--peak", library]
        starts["peak", library] = functools.partial(start, arguments, None)

    # A GPU has room for all of them to compile at once.
    found = in_turns(starts, options.rounds, together=8 if options.gpu else 1)
    rates = {
        library: max(answer["rate"] for answer in row["answers"])
        for (section, library), row in found.items()
        if section == "peak"
    }
    peak = max(rates.values(), default=None)
    report = {**about(options.gpu), "batch": options.batch, "rounds": options.rounds}
    report |= {"GFLOP a second": rates, "GFLOP": gflop, "rows": {}}
    texts = []
    for section in options.sections:
        own = {name: row for (kind, name), row in found.items() if kind == section}
        report["rows"][section] = own
        table = section_table(section, own, peak, gflop[section], options.batch)
        texts.append(table)
    texts.append(f"{options.rounds} rounds.")
    if rates:
        listed = ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items())
        texts[-1] += (
            f" The best float32 products of the base model, GFLOP a second: {listed}."
        )
    failed = any("failed" in row for row in found.values())
    return report, "\n".join(texts) + "\n" + footer(options.given, options.gpu), failed


def main():
    """Reads the command line, writes decode.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sections", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--only", nargs="*", help="ends of the names of rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--limit", type=float, default=900, help="seconds")
    parser.add_argument("--name", default="decode", help="of the results")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--count", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        answer(lambda: timed_picture(*options.row, options.batch))
        return
    if options.peak:
        answer(lambda: timed_products(options.peak))
        return
    if options.count:
        print(products(*options.count))
        return
    options.given = shlex.join(["python", "benchmarks/decode.py", *sys.argv[1:]])
    try:
        report, text, failed = measure(options)
    except Failed as error:
        sys.exit(f"The products could not be counted: {error}.")
    write(options.name, report, text)
    sys.exit(failed)


if __name__ == "__main__":
    main()

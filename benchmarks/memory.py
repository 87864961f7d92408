"""Peak memory of a process that makes a picture, ours on three backends and two peers'.

    pip install torch==2.13.0 && pip install -e ".[bench]"
    python benchmarks/memory.py

The models and settings of decode.py, which names the rows. Every row is a process of
its own, one after another, that imports what it needs, loads our model from a preset or
builds the peer's (whose weights PyTorch draws in place), makes one picture of two steps
and then one of all steps. `peak` is the largest resident memory
that Linux saw of it (`VmHWM`), the median over the rounds; `after imports` the same
before the model is built, so that `added` is what the model and its pictures take.
Memory is as glibc hands it out, without the settings that other benchmarks here make.

A process of ours sees the one backend that it uses. Rows `without TensorFlow` have
`KERAS_MUSE_WITHOUT_TENSORFLOW=1`; else ours imports it for its text on every backend.
The peer of the first table is spared `transformers` and `torchvision`, which its own
installation imports, and has no text encoder.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile

import decode
import peers
from processes import (
    WITHOUT_TENSORFLOW,
    Failed,
    about,
    environment,
    footer,
    hide_others,
    once,
    peak_memory,
)
from tables import markdown, write


def import_libraries(section, backend):
    """What a row imports before it builds anything."""
    if backend:
        hide_others()
        import keras_muse  # noqa: F401
    elif section == "maskgit":
        peers.stand_in()
        import muse_maskgit_pytorch  # noqa: F401
    else:
        peers.hide_torchvision()
        from diffusers import AmusedPipeline  # noqa: F401


def rows_of(section, ends):
    """{name: (row of decode.py, backend or None for the peer, variables)}."""
    found = {}
    for name, (backend, _) in decode.chosen_rows(section, ends).items():
        found[name] = (name, backend, {})
        if backend in ("jax", "torch"):
            label = f"{name}, without TensorFlow"
            found[label] = (name, backend, WITHOUT_TENSORFLOW)
    return found


def measure(section, name, preset):
    """Bytes of this process."""
    backend, _ = decode.rows_of(section)[name]
    import_libraries(section, backend)
    imported = peak_memory()
    make, parameters = decode.picture(section, name, 1, preset)
    for steps in (2, decode.SETTINGS[section]["num_steps"]):
        make(steps)
    peak = peak_memory()
    return {"imported": imported, "peak": peak, "parameters": parameters}


def cells(answers, reference):
    """The cells of a row; `reference` is the peer's float32 row, if it is there."""
    if isinstance(answers, str):
        return {"peak, MB": answers}

    def of(row, key):
        return statistics.median(answer[key] for answer in row)

    def added(row):
        return of(row, "peak") - of(row, "imported")

    peaks = [answer["peak"] for answer in answers]
    found = {
        "parameters": f"{of(answers, 'parameters') / 1e6:.1f} M",
        "peak, MB": f"{of(answers, 'peak') / 1e6:.0f}",
        "least, most": f"{min(peaks) / 1e6:.0f}, {max(peaks) / 1e6:.0f}",
        "after imports": f"{of(answers, 'imported') / 1e6:.0f}",
        "added": f"{added(answers) / 1e6:.0f}",
    }
    if isinstance(reference, list):
        found["peak to the peer's float32"] = (
            f"{of(answers, 'peak') / of(reference, 'peak'):.2f}"
        )
        found["added to the peer's"] = f"{added(answers) / added(reference):.2f}"
    return found


def main():
    """Reads the command line, writes memory.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = list(decode.PEERS)
    parser.add_argument("--sections", nargs="*", default=sections, choices=sections)
    parser.add_argument("--only", nargs="*", default=["float32"], help="ends of rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--limit", type=float, default=900, help="seconds")
    parser.add_argument("--name", default="memory", help="of the results")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--save", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure(*options.row)))
        return
    if options.save:
        section, preset = options.save
        decode.our_model(section, "float32").save_to_preset(preset)
        print("{}")
        return
    given = shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        report, texts = measure_all(options, folder)
    write(options.name, report, "\n".join(texts) + footer(given))
    failed = [
        rows for rows in report["rows"].values() if str in map(type, rows.values())
    ]
    sys.exit(bool(failed))


def measure_all(options, folder):
    """The report, and the texts of the tables."""
    report, texts = {**about(), "rows": {}}, []
    for section in options.sections:
        preset = f"{folder}/{section}"
        once("memory.py", ["--save", section, preset], options.core, environment())
        rows = rows_of(section, options.only)
        found = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, (row, backend, variables) in rows.items():
                if isinstance(found[name], str):
                    continue
                variables = environment(backend, **variables)
                arguments = ["--row", section, row, preset]
                try:
                    found[name].append(
                        once(
                            "memory.py",
                            arguments,
                            options.core,
                            variables,
                            options.limit,
                        )
                    )
                except Failed as error:
                    found[name] = str(error)
        report["rows"][section] = found
        reference = found.get(f"{decode.PEERS[section]} float32")
        table = {name: cells(answers, reference) for name, answers in found.items()}
        title = (
            f"Peak memory of a picture of 256 tokens, against {decode.PEERS[section]}"
        )
        texts.append(markdown(title, table))
    return report, texts


if __name__ == "__main__":
    main()

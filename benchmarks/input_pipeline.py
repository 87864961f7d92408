"""How many pictures a second each reader gives, and whether training waits for them.

    KERAS_BACKEND=torch python benchmarks/input_pipeline.py

Pictures are 256 x 256 JPEGs of the shapes world, made at 128 x 128 for training; shards
hold the tokens of both stages of the preset and its text embeddings. Rows are read by
`tf_batches` and `grain_batches` with as many threads as there are cores, nothing else
running. Waiting is the share of a training's time in which its step has no batch yet,
for the base and the super-resolution stage of the embedded preset; it has to be
measured on PyTorch, whose steps have ended when the next batch is asked for. Results go
to benchmarks/results/.
"""

import argparse
import io
import itertools
import json
import pathlib
import tarfile
import tempfile
import time

import keras
from PIL import Image
from shapes_agreement import about
from tables import markdown, write

import keras_muse
from keras_muse import data
from keras_muse.models import MuseMaskedImageModel
from keras_muse.recipes import make_optimizer

BATCH = 64


def write_sources(folder, count):
    """The same pictures in every layout."""
    images, captions = data.shapes.examples("train", 0, count, 5, 4)
    (folder / "pictures").mkdir()
    rows, annotations = [], []
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number, (image, caption) in enumerate(zip(images, captions)):
            name = f"{number:09d}"
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=90)
            (folder / "pictures" / f"{name}.jpg").write_bytes(file.getvalue())
            rows.append({"file_name": f"{name}.jpg", "id": number})
            annotations.append({"image_id": number, "caption": caption})
            (folder / "pictures" / f"{name}.txt").write_text(caption)
            for kind, part in (("jpg", file.getvalue()), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{name}.{kind}")
                info.size = len(part)
                tar.addfile(info, io.BytesIO(part))
    table = {"images": rows, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(table))


def rate(dataset, batches=20):
    """Rows a second, after the first batches."""
    iterator = iter(dataset)
    for _ in range(6):
        next(iterator)
    began = time.perf_counter()
    for _ in itertools.islice(iterator, batches):
        pass
    return round(batches * BATCH / (time.perf_counter() - began))


def waiting(preset, dataset, stage, steps=8):
    """Share of the time that the steps of a training wait for their batch."""
    muse = keras_muse.presets.load(preset)
    trainer = MuseMaskedImageModel(muse.backbone, muse.preprocessor, stage=stage)
    trainer.compile(make_optimizer("small", steps=1000))
    dataset = dataset.map(trainer.preprocess_samples).prefetch(4)
    waited = []

    def batches():
        iterator = dataset.as_numpy_iterator()
        while True:
            began = time.perf_counter()
            batch = next(iterator)
            waited.append(time.perf_counter() - began)
            yield (batch,)

    def fit(source, steps):
        # That of KerasHub would make a dataset of it, and hide the waiting.
        keras.Model.fit(
            trainer, source, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0
        )

    source = batches()
    fit(source, 2)
    waited.clear()
    began = time.perf_counter()
    fit(source, steps)
    return round(sum(waited) / (time.perf_counter() - began), 4)


def main():
    """Reads the command line, writes input_pipeline.{json,md}."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="muse_shapes")
    parser.add_argument("--count", type=int, default=1024)
    options = parser.parse_args()
    muse = keras_muse.presets.load(options.preset)
    rates, waits = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write_sources(folder, options.count)
        size = {"image_size": muse.backbone.image_shape[:2]}
        sources = {
            "folder": data.read_folder(folder / "pictures", **size),
            "COCO": data.read_coco(
                folder / "captions.json", folder / "pictures", **size
            ),
            "tar": data.read_tars(folder / "00000.tar", **size),
        }
        for file_format in data.FORMATS:
            name = f"tokens, {file_format}"
            where = folder / file_format
            data.prepare(
                sources["folder"], options.preset, where, file_format=file_format
            )
            sources[name] = data.read_tokens(where, muse.backbone, muse.preprocessor)
        for name, records in sources.items():
            rates[name] = {
                "tf_batches, rows a second": rate(data.tf_batches(records, BATCH)),
                "grain_batches": rate(data.grain_batches(records, BATCH)),
            }
            print(name, rates[name], flush=True)
        for stage, name in enumerate(("base", "super-resolution")):
            side = muse.backbone.image_shape[0] // 2 ** (1 - stage)
            pictures = data.read_folder(folder / "pictures", image_size=side)
            tokens = data.read_tokens(
                folder / "tfrecord", muse.backbone, muse.preprocessor, stage=stage
            )
            waits[name] = {
                kind: waiting(options.preset, data.tf_batches(records, BATCH), stage)
                for kind, records in (("pictures", pictures), ("tokens", tokens))
            }
            print(name, waits[name], flush=True)
    report = {"about": about(muse), "rates": rates, "waiting": waits}
    text = markdown("Rows a second", rates)
    text += "\n" + markdown("Share of the training's time that waits for data", waits)
    text += "\nMade by `KERAS_BACKEND=torch python benchmarks/input_pipeline.py`; "
    text += "what it is stands there.\n"
    write("input_pipeline", report, text)


if __name__ == "__main__":
    main()

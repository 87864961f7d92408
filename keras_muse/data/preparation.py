"""Pictures and captions -> shards of image tokens and text, once, before training.

A shard is a run of records in the order of their reader, so what is in it depends on
its number alone: it does not matter who writes it, a process here or a worker of a
cluster, nor how often a run was stopped before.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os

import keras
import numpy as np

from keras_muse.data import files
from keras_muse.data.bad_records import BadRecord, BadRecords
from keras_muse.data.encoding import Encoder
from keras_muse.data.shards import FORMATS, pack_record, write_shard
from keras_muse.data.token_records import INFO, read_info

__all__ = ["TEXTS", "Job", "prepare"]

PLAN = "plan.json"
TEXTS = ("embeddings", "ids", "captions", "none")


def prepare(
    records,
    preset,
    folder,
    text="embeddings",
    file_format="tfrecord",
    shard_size=1024,
    batch_size=32,
    max_bad_fraction=0.01,
    num_workers=1,
    verbose=1,
):
    """Writes the image tokens of every stage, and the text, of all records.

    The same call goes on after it was stopped; a shard that is there is not made again.
    `keras_muse.data.read_tokens` reads the folder. `dataset_info.json`, which is
    written last, has the fingerprints of the image tokenizers and the text encoder;
    `bad.jsonl` names the records that could not be used.

    Args:
        records: `PictureRecords` whose `image_size` is that of the last stage.
        preset: str or path. Of a Muse, whose image tokenizers, text encoder and text
            tokenizer are used; its transformers need not be trained.
        folder: str or path.
        text: `"embeddings"`, float16, without padding; `"ids"`, token ids; `"captions"`
            alone; or `"none"`. Captions are kept with the first two. Defaults to
            `"embeddings"`.
        file_format: `"tfrecord"` or `"array_record"`, which needs the extra `data`.
            Defaults to `"tfrecord"`.
        shard_size: int. Records of a shard. Defaults to 1024.
        batch_size: int. Pictures that are encoded at once. Defaults to 32.
        max_bad_fraction: float in [0, 1]. The run stops if more of all records than
            this share cannot be used. Defaults to 0.01.
        num_workers: int. Processes, each with the model. Defaults to 1, this one.
        verbose: int. 0 shows no progress bar. Defaults to 1.

    Returns:
        dict, what `dataset_info.json` says.

    Raises:
        ValueError: if an argument is out of range, the pictures have not the size of
            the last stage, a caption has too large embeddings for float16, or the
            folder holds shards of other settings.
        TooManyBadRecords: if more than `max_bad_fraction` cannot be used.
        OSError: if a shard cannot be written, such as on a full disk.
    """
    if num_workers < 1:
        raise ValueError(f"`num_workers` must be at least 1: received {num_workers}.")
    job = Job(
        records,
        str(preset),
        str(folder),
        text,
        file_format,
        shard_size,
        batch_size,
        max_bad_fraction,
    )
    job.begin()
    todo = job.unfinished()
    bad = job.list_bad(set(range(job.num_shards)) - set(todo))
    bar = keras.utils.Progbar(job.num_shards, unit_name="shard", verbose=verbose)
    bar.update(job.num_shards - len(todo))
    for number in _each(job, todo, num_workers):
        job.list_bad([number], bad)
        bar.add(1)
    return job.finish()


def _each(job, todo, num_workers):
    """The numbers of the shards, as they get done."""
    if num_workers == 1:
        for number in todo:
            job.write(number)
            yield number
        return
    # Not forked: backends do not survive that. The new processes choose the same one.
    os.environ["KERAS_BACKEND"] = keras.config.backend()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, context, initializer=_take, initargs=(job,)
    ) as pool:
        futures = {pool.submit(_write, number): number for number in todo}
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                yield futures[future]
        except concurrent.futures.process.BrokenProcessPool as error:
            left = len(job.unfinished())
            raise RuntimeError(
                "A worker ended before its shard was done; it was killed, or there was "
                f"too little memory for {num_workers} of them. {job.num_shards - left} "
                f"of {job.num_shards} shards are done: the same command goes on."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _take(job):
    """Gives a worker its job; it keeps the model from shard to shard."""
    global _job
    _job = job


def _write(number):
    _job.write(number)


@dataclasses.dataclass
class Job:
    """What is to be prepared: whatever runs it writes its shards one by one.

    See `prepare` for the arguments. It can be pickled; the model is loaded by the first
    `write` of a process.
    """

    records: object
    preset: str
    folder: str
    text: str = "embeddings"
    file_format: str = "tfrecord"
    shard_size: int = 1024
    batch_size: int = 32
    max_bad_fraction: float = 0.01

    def __post_init__(self):
        """Checks the arguments."""
        for name, allowed in (("text", TEXTS), ("file_format", FORMATS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}: "
                    f"received {getattr(self, name)!r}."
                )
        for name in ("shard_size", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be at least 1: received {getattr(self, name)}."
                )
        if self.text != "none" and not self.records.captions:
            raise ValueError(
                f"`records` must have captions for the text of {self.text!r}: received "
                "a reader with `captions=False`."
            )
        self._encoder = None

    @property
    def num_shards(self):
        """Number of all shards, an int."""
        return -(-len(self.records) // self.shard_size)

    @property
    def encoder(self):
        """The model, loaded when it is first needed."""
        if self._encoder is None:
            self._encoder = Encoder(self.preset, self.text, self.batch_size)
            self._encoder.check(self.records)
        return self._encoder

    def begin(self):
        """Writes down the settings, or holds those of a folder against them.

        Raises:
            ValueError: if the folder was begun with other settings.
        """
        files.make_folder(self.folder)
        plan = self._plan()
        path = f"{self.folder}/{PLAN}"
        if not files.exists(path):
            _write_json(path, plan)
            return
        different = files.differences(json.loads(files.read(path)), plan)
        if different:
            raise ValueError(
                f"`folder` {self.folder!r} was begun with other settings, {different}. "
                "Name an empty folder, or go on with those."
            )

    def unfinished(self):
        """Numbers of the shards that are still to be written."""
        return [n for n in range(self.num_shards) if not self._is_done(n)]

    def write(self, number):
        """Writes a shard, and then its receipt, which says that it is whole."""
        start = number * self.shard_size
        stop = min(start + self.shard_size, len(self.records))
        packed, bad = [], []
        for first in range(start, stop, self.batch_size):
            rows = []
            for index in range(first, min(first + self.batch_size, stop)):
                try:
                    rows.append(self._load(index))
                except BadRecord as error:
                    bad.append((error.key, error.reason))
            packed += [pack_record(record) for record in self.encoder.encode(rows)]
        path = self._path(number)
        write_shard(path, packed, self.file_format)
        receipt = {
            "name": os.path.basename(path),
            "records": len(packed),
            "bytes": files.size(path),
            "sha256": hashlib.sha256(files.read(path)).hexdigest(),
            "bad": bad,
        }
        _write_json(self._receipt_path(number), receipt)

    def receipt(self, number):
        """What `write` said of a shard."""
        return json.loads(files.read(self._receipt_path(number)))

    def list_bad(self, numbers, bad=None):
        """Puts the bad records of shards that are done on the list.

        Args:
            numbers: of the shards.
            bad: optional `BadRecords`. Defaults to that of the folder.

        Returns:
            `BadRecords`.

        Raises:
            TooManyBadRecords: if they are too many now.
        """
        if bad is None:
            path = f"{self.folder}/bad.jsonl"
            bad = BadRecords(path, len(self.records), self.max_bad_fraction)
        for number in numbers:
            for key, reason in self.receipt(number)["bad"]:
                bad.add(BadRecord(key, reason))
        return bad

    def finish(self):
        """Writes `dataset_info.json` when all shards are there; returns what it says.

        Raises:
            ValueError: if shards are missing.
        """
        missing = self.unfinished()
        if missing:
            raise ValueError(
                f"{len(missing)} of {self.num_shards} shards of {self.folder!r} are "
                f"missing, the first is {missing[0]}."
            )
        shards = [self.receipt(number) for number in range(self.num_shards)]
        # Not made anew: fingerprints read all weights of the text encoder.
        plan = json.loads(files.read(f"{self.folder}/{PLAN}"))
        info = {
            "version": 1,
            "format": self.file_format,
            "source": plan["source"],
            "records": sum(shard["records"] for shard in shards),
            "bad": sum(len(shard.pop("bad")) for shard in shards),
            "stages": plan["stages"],
            "text": plan["text"],
            "shards": shards,
        }
        _write_json(f"{self.folder}/{INFO}", info)
        return read_info(self.folder)

    def _load(self, index):
        """(key, picture, captions) of a record."""
        random = np.random.Generator(np.random.Philox(key=[0, index]))
        captions = []
        if self.text != "none":
            captions = self.records.load_captions(index)
        picture = self.records.load_picture(index, random)
        return self.records.key(index), picture, captions

    def _plan(self):
        """What must not change between two runs that write one folder."""
        keys = hashlib.sha256()
        for index in range(len(self.records)):
            keys.update(self.records.key(index).encode() + b"\0")
        return {
            "source": self.records.source,
            "keys": keys.hexdigest()[:16],
            "image_size": list(self.records.image_size),
            "crop": self.records.crop,
            "flip": self.records.flip,
            "stages": self.encoder.stages(),
            "text": self.encoder.text_info(),
            "format": self.file_format,
            "shard_size": self.shard_size,
        }

    def _path(self, number):
        kind = self.file_format
        name = f"tokens-{number:05d}-of-{self.num_shards:05d}.{kind}"
        return f"{self.folder}/{name}"

    def _receipt_path(self, number):
        return f"{self.folder}/receipts/{number:05d}.json"

    def _is_done(self, number):
        if not files.exists(self._receipt_path(number)):
            return False
        path = self._path(number)
        return files.exists(path) and files.size(path) == self.receipt(number)["bytes"]

    def __getstate__(self):
        """Without the model, which each process loads for itself."""
        return {**self.__dict__, "_encoder": None}


def _write_json(path, value):
    files.make_folder(os.path.dirname(path))
    with files.replace(path) as beside, files.open_file(beside, "w") as file:
        file.write(json.dumps(value, indent=1) + "\n")

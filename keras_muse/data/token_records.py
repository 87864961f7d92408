"""Reader: shards of precomputed tokens -> records."""

import collections
import json
import threading

import numpy as np

from keras_muse.data import files
from keras_muse.data.bad_records import BadRecord
from keras_muse.data.fingerprints import (
    image_tokenizer_fingerprint,
    text_encoder_fingerprint,
)
from keras_muse.data.shards import open_shard, unpack_record

__all__ = ["INFO", "TokenRecords", "read_info", "read_tokens"]

INFO = "dataset_info.json"
OPEN_SHARDS = 256


def read_info(folder):
    """What `dataset_info.json` says, after a look at the size of every shard.

    Args:
        folder: str or path that `prepare` wrote.

    Returns:
        dict.

    Raises:
        FileNotFoundError: if there is none, so `prepare` is not done.
        ValueError: if a shard is missing, truncated or changed, naming it.
    """
    path = f"{folder}/{INFO}"
    if not files.exists(path):
        raise FileNotFoundError(
            f"There is no {path!r}: `keras_muse.data.prepare` writes it when all "
            "shards are there; run it again, it goes on."
        )
    info = json.loads(files.read(path))
    for shard in info["shards"]:
        name = f"{folder}/{shard['name']}"
        if not files.exists(name):
            raise ValueError(f"The shard {name!r} is missing.")
        if files.size(name) != shard["bytes"]:
            raise ValueError(
                f"The shard {name!r} is truncated or changed: it has "
                f"{files.size(name)} bytes and was written with {shard['bytes']}. "
                f"Remove it and {path!r}, and prepare again: nothing else is repeated."
            )
    return info


def read_tokens(folder, backbone, preprocessor=None, stage=0, text=None):
    """Reads what `keras_muse.data.prepare` wrote, to train a stage of a Muse.

    Args:
        folder: str or path.
        backbone: the `MuseBackbone` that is trained. Refused unless its tokenizers,
            and its text encoder if it is needed, made what is in the folder.
        preprocessor: optional `MuseTextToImagePreprocessor` of the training; needed for
            the text of `"ids"` and `"embeddings"`.
        stage: int. Which stage is trained. Defaults to 0.
        text: `"embeddings"`, `"ids"`, `"captions"` or `"none"`. What of the text is
            returned. Defaults to what was prepared.

    Returns:
        `TokenRecords`.

    Raises:
        FileNotFoundError: if `prepare` is not done.
        ValueError: if a shard is damaged, the folder has no such text or stage, or a
            fingerprint is not that of the model; the message has both.

    Example:
    ```python
    records = keras_muse.data.read_tokens("tokens", muse.backbone, muse.preprocessor)
    dataset = keras_muse.data.tf_batches(records, batch_size=64)
    ```
    """
    info = read_info(folder)
    kind = info["text"]["kind"]
    text = kind if text is None else text
    if text not in (kind, "captions", "none") or (
        text == "captions" and kind == "none"
    ):
        raise ValueError(
            f"`text` must be one of {[kind, 'captions', 'none']}, what was prepared: "
            f"received {text!r}."
        )
    if not 0 <= stage < len(info["stages"]):
        raise ValueError(
            f"`stage` must lie in [0, {len(info['stages'])}), what was prepared: "
            f"received {stage}."
        )
    _check_fingerprints(folder, info, backbone, preprocessor, stage, text)
    return TokenRecords(folder, info, stage, text)


class TokenRecords:
    """Precomputed tokens of one stage with their text, in any order.

    Made by `read_tokens`. `load` returns `"image_ids"` (N,) int32; behind the first
    stage `"low_res_ids"` (M,) int32, those of the stage before; and the text of one of
    the captions: `"text_embeddings"` (L, D) float16 and `"padding_mask"` (L,) bool, or
    `"token_ids"` (L,) int32 and `"padding_mask"`, or `"captions"`, a str.

    Args:
        folder: str or path.
        info: dict, from `read_info`.
        stage: int.
        text: str, see `read_tokens`.
    """

    def __init__(self, folder, info, stage, text):
        self.folder = str(folder)
        self.source = self.folder
        self.info = info
        self.stage = stage
        self.text = text
        counts = [shard["records"] for shard in info["shards"]]
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self._shards = collections.OrderedDict()
        self._lock = threading.Lock()

    @property
    def signature(self):
        """{name: (shape, dtype)} of what `load` returns; the dtype of text is str."""
        stages, text = self.info["stages"], self.info["text"]
        signature = {"image_ids": ((_tokens(stages[self.stage]),), "int32")}
        if self.stage:
            count = _tokens(stages[self.stage - 1])
            signature["low_res_ids"] = ((count,), "int32")
        length = text.get("sequence_length")
        if self.text == "captions":
            signature["captions"] = ((), str)
        elif self.text == "ids":
            signature["token_ids"] = ((length,), "int32")
        elif self.text == "embeddings":
            signature["text_embeddings"] = ((length, text["dim"]), "float16")
        if self.text in ("ids", "embeddings"):
            signature["padding_mask"] = ((length,), "bool")
        return signature

    def __len__(self):
        """Number of records."""
        return int(self.starts[-1])

    def key(self, index):
        """Where a record lies: shard and place."""
        shard, place = self._place(index)
        return f"{self.info['shards'][shard]['name']}[{place}]"

    def load(self, index, random):
        """A record as it is trained on.

        Args:
            index: int.
            random: `numpy.random.Generator`, which chooses one of several captions.

        Returns:
            dict, as `signature` says.

        Raises:
            BadRecord: if it is damaged.
        """
        shard, place = self._place(index)
        try:
            record = unpack_record(self._shard(shard)[place])
        except ValueError as error:
            raise BadRecord(self.key(index), str(error)) from error
        loaded = {"image_ids": self._ids(record, self.stage)}
        if self.stage:
            loaded["low_res_ids"] = self._ids(record, self.stage - 1)
        if self.text != "none":
            choice = int(random.integers(len(record["captions"])))
            loaded.update(self._text(record, choice))
        return loaded

    def _ids(self, record, stage):
        dtype = self.info["stages"][stage]["dtype"]
        (data,) = record[f"image_ids_{stage}"]
        return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).astype("int32")

    def _text(self, record, choice):
        if self.text == "captions":
            return {"captions": record["captions"][choice].decode()}
        text = self.info["text"]
        length = text["sequence_length"]
        name, dtype, width = (
            ("token_ids", "<i4", 1)
            if self.text == "ids"
            else ("text_embeddings", "<f2", text["dim"])
        )
        rows = np.frombuffer(record[name][choice], dtype).reshape(-1, width)
        padded = np.full((length, width), text["pad"], rows.dtype.newbyteorder("="))
        padded[: len(rows)] = rows
        values = padded[:, 0] if self.text == "ids" else padded
        return {name: values, "padding_mask": np.arange(length) < len(rows)}

    def _place(self, index):
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def _shard(self, number):
        with self._lock:
            if number not in self._shards:
                name = self.info["shards"][number]["name"]
                path = f"{self.folder}/{name}"
                self._shards[number] = open_shard(path, self.info["format"])
                # An ArrayRecord keeps its file open, a TFRecord has a table alone.
                if self.info["format"] == "array_record":
                    if len(self._shards) > OPEN_SHARDS:
                        self._shards.popitem(last=False)
            self._shards.move_to_end(number)
            return self._shards[number]

    def __getstate__(self):
        """Without open files, which do not go to other processes."""
        state = {**self.__dict__, "_shards": collections.OrderedDict()}
        del state["_lock"]
        return state

    def __setstate__(self, state):
        """Opens them anew when they are needed."""
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _tokens(stage):
    rows, columns = stage["grid_size"]
    return rows * columns


def _check_fingerprints(folder, info, backbone, preprocessor, stage, text):
    if stage >= len(backbone.stages):
        raise ValueError(
            f"`stage` must be one of the backbone's {len(backbone.stages)}: received "
            f"{stage}."
        )
    for number in range(max(stage - 1, 0), stage + 1):
        _refuse(
            folder,
            f"the image tokenizer of stage {number}",
            info["stages"][number]["fingerprint"],
            image_tokenizer_fingerprint(backbone.stages[number].image_tokenizer),
        )
    if text not in ("ids", "embeddings"):
        return
    if preprocessor is None:
        raise ValueError(
            f"`preprocessor` is needed for the text of {text!r}: received None."
        )
    encoder = backbone.text_encoder if text == "embeddings" else None
    part = "the tokenizer of the text" if encoder is None else "the text encoder"
    found = text_encoder_fingerprint(encoder, preprocessor.tokenizer)
    _refuse(folder, part, info["text"]["fingerprint"], found)


def _refuse(folder, part, prepared, found):
    if prepared != found:
        raise ValueError(
            f"{str(folder)!r} was prepared with another model: {part} had the "
            f"fingerprint {prepared} there, that of the model is {found}. Prepare the "
            "pictures again, or train the model that they were prepared with."
        )

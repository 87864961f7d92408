"""Pictures and captions on disk to batches; the procedural shapes world."""

from keras_muse.data import shapes, shapes_checker
from keras_muse.data.bad_records import BadRecord, BadRecords, TooManyBadRecords
from keras_muse.data.batches import grain_batches, repeat_batch, tf_batches
from keras_muse.data.beam import prepare_with_beam
from keras_muse.data.picture_records import CROPS, PictureRecords
from keras_muse.data.preparation import TEXTS, prepare
from keras_muse.data.readers import (
    read_coco,
    read_folder,
    read_pictures,
    read_tars,
)
from keras_muse.data.shards import FORMATS
from keras_muse.data.token_records import TokenRecords, read_tokens

__all__ = [
    "BadRecord",
    "BadRecords",
    "CROPS",
    "FORMATS",
    "PictureRecords",
    "TEXTS",
    "TokenRecords",
    "TooManyBadRecords",
    "grain_batches",
    "prepare",
    "prepare_with_beam",
    "read_coco",
    "read_folder",
    "read_pictures",
    "read_tars",
    "read_tokens",
    "repeat_batch",
    "shapes",
    "shapes_checker",
    "tf_batches",
]

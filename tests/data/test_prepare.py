"""Shards of tokens: what is in them, who writes them, who may read them."""

import functools
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest

from keras_muse import data
from keras_muse.data import preparation
from keras_muse.models import MuseMaskedImageModel
from tests.data.conftest import CAPTIONS
from tests.tools import on_one_backend, tiny_backbone, tiny_muse


@pytest.fixture(scope="module")
def muse():
    return tiny_muse(num_stages=2)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs of the same model share what was compiled for it."""
    encoder = preparation.Encoder
    preparation.Encoder = functools.cache(encoder)
    yield
    preparation.Encoder = encoder


@pytest.fixture(scope="module")
def preset(muse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    muse.save_to_preset(str(folder))
    return str(folder)


@pytest.fixture
def records(txt_folder):
    return data.read_folder(txt_folder, image_size=32)


def run(records, preset, folder, **settings):
    return data.prepare(
        records,
        preset,
        folder,
        **{"shard_size": 3, "batch_size": 2, "verbose": 0, **settings},
    )


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "text, file_format",
    [
        ("embeddings", "tfrecord"),
        ("ids", "array_record"),
        ("captions", "array_record"),
        ("none", "tfrecord"),
    ],
)
def test_what_is_read_is_what_the_model_makes(
    muse, preset, records, tmp_path, text, file_format
):
    info = run(records, preset, tmp_path, text=text, file_format=file_format)
    assert info["records"] == 7 and info["bad"] == 0
    assert [shard["records"] for shard in info["shards"]] == [3, 3, 1]
    pictures = np.stack([records.load_picture(i, None) for i in range(7)])
    captions = [records.load_captions(i)[0] for i in range(7)]
    expected = [keras.ops.convert_to_numpy(ids) for ids in muse.encode_images(pictures)]
    rows = muse.preprocessor.generate_preprocess(captions)
    for stage in (0, 1):
        read = data.read_tokens(tmp_path, muse.backbone, muse.preprocessor, stage=stage)
        assert len(read) == 7
        random = np.random.default_rng(0)
        loaded = [read.load(index, random) for index in range(7)]
        found = {
            key: np.stack([np.asarray(row[key]) for row in loaded]) for key in loaded[0]
        }
        assert {
            key: (value.shape[1:], str if value.dtype.kind == "U" else str(value.dtype))
            for key, value in found.items()
        } == read.signature
        np.testing.assert_array_equal(found["image_ids"], expected[stage])
        if stage:
            np.testing.assert_array_equal(found["low_res_ids"], expected[0])
        if text == "captions":
            assert found["captions"].tolist() == captions
        if text in ("ids", "embeddings"):
            mask = keras.ops.convert_to_numpy(rows["padding_mask"])
            np.testing.assert_array_equal(found["padding_mask"], mask)
        if text == "ids":
            ids = keras.ops.convert_to_numpy(rows["token_ids"])
            np.testing.assert_array_equal(found["token_ids"], ids)
        if text == "embeddings":
            made = keras.ops.convert_to_numpy(muse.backbone.text_encoder(rows))
            np.testing.assert_allclose(
                found["text_embeddings"], made * mask[..., None], atol=2e-3, rtol=1e-3
            )


@pytest.mark.parametrize("engine", [data.tf_batches, data.grain_batches])
def test_a_stage_learns_from_tokens(preset, records, tmp_path, engine):
    run(records, preset, tmp_path)
    muse = tiny_muse(num_stages=2)
    trainer = MuseMaskedImageModel(muse.backbone, muse.preprocessor, stage=1)
    trainer.compile("adam")
    read = data.read_tokens(tmp_path, muse.backbone, muse.preprocessor, stage=1)
    dataset = engine(read, 4, num_threads=1)
    history = trainer.fit(dataset, steps_per_epoch=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all() and int(trainer.steps) == 2


def test_several_captions(muse, preset, coco, tmp_path):
    records = data.read_coco(*coco, image_size=32)
    run(records, preset, tmp_path / "tokens", text="ids")
    read = data.read_tokens(tmp_path / "tokens", muse.backbone, text="captions")
    random = np.random.default_rng(0)
    drawn = [read.load(2, random)["captions"] for _ in range(60)]
    assert set(drawn) == {CAPTIONS[2], "another"}


def test_bad_records_are_left_out(txt_folder, records, preset, tmp_path, muse):
    (txt_folder / "0.txt").unlink()
    (txt_folder / "4.png").write_text("no picture")
    with pytest.raises(data.TooManyBadRecords, match="1 of 7 records"):
        run(records, preset, tmp_path)
    # Allowed to leave out more, it goes on with what it has.
    info = run(records, preset, tmp_path, max_bad_fraction=0.3)
    assert info["records"] == 5 and info["bad"] == 2
    rows = [
        json.loads(row) for row in (tmp_path / "bad.jsonl").read_text().splitlines()
    ]
    assert [row["key"] for row in rows] == ["0.png", "4.png"]
    assert len(data.read_tokens(tmp_path, muse.backbone, muse.preprocessor)) == 5


def test_it_goes_on(records, preset, tmp_path, monkeypatch):
    run(records, preset, tmp_path / "whole")
    whole = contents(tmp_path / "whole")

    class Killed(BaseException):
        pass

    # Killed after the second shard was written, before its receipt was.
    write = preparation._write_json

    def killed(path, value):
        if path.endswith("receipts/00001.json"):
            raise Killed
        write(path, value)

    monkeypatch.setattr(preparation, "_write_json", killed)
    with pytest.raises(Killed):
        run(records, preset, tmp_path / "part")
    monkeypatch.undo()
    part = contents(tmp_path / "part")
    assert "dataset_info.json" not in part and "receipts/00000.json" in part
    with pytest.raises(FileNotFoundError, match="run it again, it goes on"):
        data.read_tokens(tmp_path / "part", None)
    first = tmp_path / "part" / "tokens-00000-of-00003.tfrecord"
    before = first.stat().st_mtime_ns
    run(records, preset, tmp_path / "part")
    assert contents(tmp_path / "part") == whole
    assert first.stat().st_mtime_ns == before
    # Done is done.
    run(records, preset, tmp_path / "part")
    assert contents(tmp_path / "part") == whole


@pytest.mark.slow
@on_one_backend
def test_all_drivers_write_the_same_bytes(records, preset, tmp_path):
    run(records, preset, tmp_path / "one")
    run(records, preset, tmp_path / "two", num_workers=2)
    settings = {"shard_size": 3, "batch_size": 2}
    data.prepare_with_beam(records, preset, tmp_path / "beam", **settings)
    one = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == one
    assert contents(tmp_path / "beam") == one


@pytest.mark.slow
@on_one_backend
def test_a_worker_that_is_killed(records, preset, tmp_path, monkeypatch):
    records.entries[3] = records.entries[3]._replace(picture=_Deadly("x"))
    with pytest.raises(RuntimeError) as error:
        run(records, preset, tmp_path, shard_size=2, num_workers=2)
    assert "A worker ended before its shard was done" in str(error.value)
    assert "of 4 shards are done: the same command goes on" in str(error.value)


class _Deadly(tuple):
    """A place on disk that kills whoever looks at it."""

    def __new__(cls, path):
        return tuple.__new__(cls, (path, 0, -1, None))

    @property
    def path(self):
        os.kill(os.getpid(), 9)


# --- Refused ------------------------------------------------------------------------


@pytest.fixture
def prepared(records, preset, tmp_path):
    run(records, preset, tmp_path / "tokens")
    return tmp_path / "tokens"


def test_another_model_is_refused(muse, prepared):
    other = tiny_backbone(num_stages=2, seed=5)
    with pytest.raises(ValueError) as error:
        data.read_tokens(prepared, other, muse.preprocessor)
    assert "was prepared with another model" in str(error.value)
    assert "the image tokenizer of stage 0 had the fingerprint" in str(error.value)
    # The tokenizers of this one, another text encoder.
    other.image_tokenizers[0].set_weights(
        muse.backbone.image_tokenizers[0].get_weights()
    )
    with pytest.raises(ValueError, match="the text encoder had the fingerprint"):
        data.read_tokens(prepared, other, muse.preprocessor)
    # Captions need no text encoder.
    assert len(data.read_tokens(prepared, other, text="captions")) == 7
    with pytest.raises(ValueError, match="tokenizer of stage 1"):
        data.read_tokens(prepared, other, stage=1, text="captions")


def test_a_larger_decoder_makes_no_other_tokens(muse, prepared):
    large = muse.backbone.image_tokenizers[1].with_decoder(8, 1)
    backbone = muse.backbone.replace_image_tokenizer(1, large)
    assert len(data.read_tokens(prepared, backbone, muse.preprocessor, stage=1)) == 7


@pytest.mark.parametrize("file_format", data.FORMATS)
def test_truncated_shards_are_refused(muse, preset, records, tmp_path, file_format):
    run(records, preset, tmp_path, text="none", file_format=file_format)
    path = tmp_path / f"tokens-00001-of-00003.{file_format}"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError) as error:
        data.read_tokens(tmp_path, muse.backbone)
    assert f"00001-of-00003.{file_format}' is truncated or changed" in str(error.value)
    assert f"has {len(whole) - 7} bytes and was written with {len(whole)}" in str(
        error.value
    )
    path.unlink()
    with pytest.raises(ValueError, match="tokens-00001-of-00003.*' is missing"):
        data.read_tokens(tmp_path, muse.backbone)


def test_a_damaged_record_is_found(muse, prepared):
    path = prepared / "tokens-00001-of-00003.tfrecord"
    whole = path.read_bytes()
    place = whole.index(b"a circle")
    path.write_bytes(whole[:place] + b"b" + whole[place + 1 :])
    read = data.read_tokens(prepared, muse.backbone, muse.preprocessor)
    reasons = []
    for index in range(3, 6):
        try:
            read.load(index, np.random.default_rng(0))
        except data.BadRecord as error:
            reasons.append(str(error))
    assert len(reasons) == 1 and "00001-of-00003.tfrecord[" in reasons[0]


def test_other_settings_are_refused(records, preset, prepared, txt_folder):
    with pytest.raises(ValueError) as error:
        run(records, preset, prepared, shard_size=2)
    assert "was begun with other settings, shard_size: 3 there and 2 now" in str(
        error.value
    )
    shutil.copy(txt_folder / "0.png", txt_folder / "7.png")
    more = data.read_folder(txt_folder, image_size=32)
    with pytest.raises(ValueError, match="other settings, keys: "):
        run(more, preset, prepared)


def test_wrong_arguments(records, preset, muse, prepared, tmp_path):
    for settings, message in (
        ({"text": "words"}, "`text` must be one of 'embeddings'.*received 'words'"),
        ({"file_format": "csv"}, "`file_format` must be one of 'tfrecord'"),
        ({"shard_size": 0}, "`shard_size` must be at least 1: received 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1: received 0"),
        ({"num_workers": 0}, "`num_workers` must be at least 1: received 0"),
    ):
        with pytest.raises(ValueError, match=message):
            run(records, preset, tmp_path / "x", **settings)
    small = data.read_folder(records.source, image_size=16)
    with pytest.raises(ValueError, match=r"last stage, \(32, 32\): received \(16, 16"):
        run(small, preset, tmp_path / "x")
    alone = data.read_folder(records.source, image_size=32, captions=False)
    with pytest.raises(ValueError, match="`records` must have captions for the text"):
        run(alone, preset, tmp_path / "x")
    with pytest.raises(ValueError, match="`text` must be one of .*received 'ids'"):
        data.read_tokens(prepared, muse.backbone, muse.preprocessor, text="ids")
    with pytest.raises(ValueError, match=r"`stage` must lie in \[0, 2\).*received 2"):
        data.read_tokens(prepared, muse.backbone, muse.preprocessor, stage=2)
    with pytest.raises(ValueError, match="`preprocessor` is needed"):
        data.read_tokens(prepared, muse.backbone)


def test_embeddings_too_large_for_float16(records, tmp_path):
    muse = tiny_muse(num_stages=2)
    scale = muse.backbone.text_encoder.weights[-1]
    assert scale.path.endswith("output_norm/scale")
    scale.assign(1e5 * np.ones(scale.shape))
    muse.save_to_preset(str(tmp_path / "preset"))
    with pytest.raises(ValueError, match="must fit into float16.*Use `text='ids'`"):
        run(records, str(tmp_path / "preset"), tmp_path / "tokens")

"""What an export computes, whichever backend the Muse was on."""

import re
import shutil
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import keras_muse
from keras_muse.models import (
    MuseInpaint,
    MuseTextToImage,
    MuseTextToImagePreprocessor,
)
from keras_muse.serving import export, export_preset
from keras_muse.serving.files import batch_sizes
from tests.serving import loader
from tests.serving.conftest import SAMPLERS
from tests.serving.examples import PROMPTS, inputs, mask_png, png
from tests.tools import only_on, tiny_muse

# Too long prompts are among the examples.
pytestmark = pytest.mark.filterwarnings("ignore:A prompt has")

# What the export does is the same wherever it came from.
about_the_export_alone = only_on("tensorflow", "is run on TensorFlow")
SEEDS = [0, 1, -1, 7, 2**31 - 1, -(2**31), 3, 4]


def call(function, values):
    return {
        name: value.numpy()
        for name, value in function(
            **{name: tf.constant(value) for name, value in values.items()}
        ).items()
    }


def tokens_of(muse, prompts, seeds, scale=None, negative=None):
    samplers = muse.samplers_for(None, scale, None, None)
    negative = None if negative is None else [negative] * len(prompts)
    return muse.generate_tokens(prompts, negative, np.array(seeds, "int32"), samplers)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [-1.0, 1.0, 3.0, 0.0])
def test_the_same_tokens_as_generate(muse, signatures, scale):
    made = call(signatures["tokens"], inputs(PROMPTS, SEEDS, scale))
    wanted = tokens_of(muse, PROMPTS, SEEDS, None if scale < 0 else scale)
    assert set(made["error"]) == {b""}
    for index, ids in enumerate(wanted):
        np.testing.assert_array_equal(made[f"tokens_{index}"], ids)


@pytest.mark.slow
def test_the_same_pictures_as_generate(muse, signatures):
    negative = "a blue square"
    values = inputs(PROMPTS, SEEDS, 2.0, negative.encode())
    made = call(signatures["serving_default"], values)
    wanted = muse.generate(
        {"prompts": PROMPTS, "negative_prompts": negative},
        guidance_scale=2.0,
        seed=SEEDS,
    )
    # Backends round pixels in their own ways.
    difference = made["images"].astype(int) - wanted
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 0.01
    for image, file in zip(made["images"], made["png_bytes"]):
        np.testing.assert_array_equal(tf.io.decode_png(file), image)
    files = call(signatures["png"], values)
    assert set(files) == {"png_bytes", "error"}
    np.testing.assert_array_equal(files["png_bytes"], made["png_bytes"])
    ids = tokens_of(muse, PROMPTS, SEEDS, 2.0, negative)[-1]
    decoded = call(signatures["decode"], {"tokens": ids})
    np.testing.assert_array_equal(decoded["images"], made["images"])


@pytest.mark.slow
def test_the_same_inpainting_as_in_python(muse, signatures, pictures):
    images, masks = pictures
    prompts = PROMPTS[:4]
    files = {
        "image_bytes": list(map(png, images)),
        "mask_bytes": list(map(mask_png, masks)),
    }
    made = call(signatures["inpaint"], inputs(prompts, SEEDS[:4], **files))
    task = MuseInpaint(muse.backbone, muse.preprocessor, muse.samplers)
    wanted = task.generate(
        {"images": images, "masks": masks, "prompts": prompts}, seed=SEEDS[:4]
    )
    assert set(made["error"]) == {b""}
    assert np.abs(made["images"].astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(made["images"][~masks], images[~masks])
    # Nothing is masked in the last picture.
    np.testing.assert_array_equal(made["images"][3], images[3])


@pytest.mark.slow
@about_the_export_alone
def test_a_row_does_not_see_its_batch(signatures, pictures):
    images, masks = pictures
    rows = inputs(
        PROMPTS[:4],
        SEEDS[:4],
        [-1.0, 1.0, 4.0, 1.5],
        image_bytes=list(map(png, images)),
        mask_bytes=list(map(mask_png, masks)),
    )
    for name in ("serving_default", "tokens", "inpaint"):
        specs = signatures[name].structured_input_signature[1]
        together = call(signatures[name], {key: rows[key] for key in specs})
        for order in ([0], [1, 0], [3, 3, 3, 3, 3, 2], [2, 1, 3]):
            apart = call(signatures[name], {key: rows[key][order] for key in specs})
            for key, value in apart.items():
                np.testing.assert_array_equal(value, together[key][order], key)


@pytest.mark.slow
@about_the_export_alone
def test_a_bad_row_has_an_error_and_its_mates_their_pictures(signatures):
    good = inputs([b"a red circle"] * 9, range(9), 2.0)
    bad = {name: value.copy() for name, value in good.items()}
    bad["prompt"][1] = b"\xff\xfe"
    bad["negative_prompt"][2] = b"a\xed\xa0\x80"
    bad["prompt"][3] = "é".encode() * 500_000
    bad["seed"][4] = 2**31
    bad["guidance_scale"][5:8] = [np.nan, -2.0, np.inf]
    bad["guidance_scale"][8] = 100.5
    wanted = call(signatures["serving_default"], good)
    made = call(signatures["serving_default"], bad)
    assert made["error"][0] == b""
    np.testing.assert_array_equal(made["images"][0], wanted["images"][0])
    messages = [
        "`prompt` must be UTF-8 of at most 16384 bytes",
        "`negative_prompt` must be UTF-8",
        "`prompt` must be UTF-8",
        r"`seed` must lie in \[-2\^31, 2\^31\): received 2147483648",
        r"`guidance_scale` must lie in \[0, 100\], .* received nan",
        "`guidance_scale` .* received -2",
        "`guidance_scale` .* received inf",
        "`guidance_scale` .* received 100.5",
    ]
    for row, message in enumerate(messages, 1):
        error = made["error"][row].decode()
        assert re.match(f"INVALID_ARGUMENT: {message}", error), error
        assert made["images"][row].max() == 0 and made["png_bytes"][row] == b""
    ids = call(signatures["tokens"], bad)["tokens_1"]
    assert ids[0].min() >= 0 and (ids[1:] == -1).all()


@pytest.mark.slow
@about_the_export_alone
def test_a_file_that_is_no_picture_of_the_size_is_an_error(signatures, pictures):
    images, masks = pictures
    image, mask = png(images[0]), mask_png(masks[0])
    jpeg = tf.io.encode_jpeg(images[0], quality=95).numpy()
    # It says 50,000 x 50,000 pixels, which nobody must make room for.
    bomb = image[:16] + (50000).to_bytes(4, "big") * 2 + image[24:]
    files = [image, jpeg, b"", b"GIF89a", image[:60], bomb, png(images[0][:16]), mask]
    count = len(files)
    made = call(
        signatures["inpaint"],
        inputs(
            ["a red circle"] * (count + 1),
            range(count + 1),
            image_bytes=[*files, image],
            mask_bytes=[mask] * count + [b"\x89PNG"],
        ),
    )
    wanted = "INVALID_ARGUMENT: `{}` must be a PNG or JPEG of 32 x 32 pixels."
    errors = [error.decode() for error in made["error"]]
    # A grey picture is a picture.
    assert [errors[0], errors[1], errors[7]] == ["", "", ""]
    assert errors[2:7] == [wanted.format("image_bytes")] * 5
    assert errors[8] == wanted.format("mask_bytes")
    assert made["images"][2:7].max() == 0


@pytest.mark.slow
@about_the_export_alone
def test_tokens_out_of_range_are_an_error(signatures):
    ids = np.zeros((3, 64), "int32")
    ids[1, 5], ids[2, 0] = 32, -1
    made = call(signatures["decode"], {"tokens": ids})
    message = b"INVALID_ARGUMENT: `tokens` must lie in [0, 32)."
    assert list(made["error"]) == [b"", message, message]


@pytest.mark.slow
@about_the_export_alone
def test_a_batch_without_rows_or_pairs_is_refused(signatures):
    empty = inputs([], [])
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one row"):
        call(signatures["tokens"], empty)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one row"):
        call(signatures["decode"], {"tokens": np.zeros((0, 64), "int32")})
    uneven = {**inputs(["a"] * 2, [1, 2]), "seed": np.array([1], "int64")}
    with pytest.raises(tf.errors.InvalidArgumentError, match="as many rows"):
        call(signatures["tokens"], uneven)


def test_the_files_of_a_version(exported, signatures):
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.config import model_server_config_pb2

    assert sorted(p.name for p in exported.parent.iterdir()) == [
        "1",
        "batching_parameters.txt",
        "models.config",
    ]
    config = text_format.Parse(
        (exported.parent / "models.config").read_text(),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert model.name == "tiny" and model.base_path == str(exported.parent)
    assert model.version_labels == {"stable": 1}
    assert model.model_platform == "tensorflow"
    assert list(model.model_version_policy.specific.versions) == [1]
    batching = (exported.parent / "batching_parameters.txt").read_text()
    assert re.findall(r"allowed_batch_sizes: (\d+)", batching) == ["1", "2", "4", "6"]
    assert "max_batch_size { value: 6 }" in batching
    graph = saved_model_pb2.SavedModel.FromString(
        (exported / "saved_model.pb").read_bytes()
    ).meta_graphs[0]
    nodes = [*graph.graph_def.node]
    for function in graph.graph_def.library.function:
        nodes += function.node_def
    ops = {node.op for node in nodes}
    assert "SentencepieceOp" in ops
    # Nothing of Python, and nothing of XLA, which servers have switched off.
    assert not [op for op in ops if "PyFunc" in op or "Xla" in op]
    assert not [node.name for node in nodes if "_XlaMustCompile" in node.attr]

    card = (exported / "model_card.md").read_text()
    for name, signature in signatures.items():
        assert f"`{name}`" in card
        for key in signature.structured_outputs:
            assert f"`{key}`" in card
    weights = exported / "variables/variables.data-00000-of-00001"
    assert keras_muse.presets.loading.sha256_of(weights) in card
    assert "order='random'" in card and "more than 8 tokens" in card


@pytest.mark.slow
@about_the_export_alone
def test_warm_up_requests_are_answered(exported, signatures):
    from tensorflow_serving.apis import prediction_log_pb2

    from tests.serving.stand_in import answer

    file = exported / "assets.extra/tf_serving_warmup_requests"
    sizes = []
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        request = log.predict_log.request
        assert request.model_spec.name == "tiny"
        response = answer(signatures, request)
        errors = tf.make_ndarray(response.outputs["error"])
        assert set(errors) == {b""}
        sizes.append((request.model_spec.signature_name, len(errors)))
    assert sizes[:4] == [("serving_default", size) for size in (1, 2, 4, 6)]
    assert sorted(sizes[4:]) == [(n, 1) for n in ("decode", "inpaint", "png", "tokens")]


def test_batch_sizes():
    assert batch_sizes(1) == [1]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(12) == [1, 2, 4, 8, 12]


@pytest.mark.slow
@about_the_export_alone
def test_the_next_version(muse, exported, tmp_path):
    """Labels stay where they are; what is there is not written over."""
    shutil.copytree(exported.parent, tmp_path / "served")
    with pytest.raises(FileExistsError, match="export the next version"):
        muse.export(tmp_path / "served/1")
    queue = tmp_path / "served/batching_parameters.txt"
    queue.write_text(queue.read_text() + "# mine\n")
    with pytest.raises(ValueError, match="`max_batch` must be what .* has .*, 6: rec"):
        muse.export(tmp_path / "served/2")
    config = tmp_path / "served/models.config"
    text = config.read_text().replace('"tiny"', '"served"')
    text = text.replace(str(exported.parent), "/models/served")
    other = 'config { name: "other" base_path: "/models/other" }'
    config.write_text(
        text.replace("model_config_list {", f"model_config_list {{ {other}")
    )
    second = muse.export(
        tmp_path / "served/2",
        label="canary",
        warm_up=False,
        num_steps=1,
        stages=1,
        max_batch=6,
    )
    config = (tmp_path / "served/models.config").read_text()
    assert re.findall("versions: (.)", config) == ["1", "2"]
    # What people wrote stays: other models, paths, numbers of the queue.
    assert 'name: "other"' in config and 'base_path: "/models/served"' in config
    assert re.findall('key: "(.*)"', config) == ["canary", "stable"]
    assert queue.read_text().endswith("# mine\n")
    model = tf.saved_model.load(str(second))
    made = call(model.signatures["tokens"], inputs(PROMPTS, SEEDS))
    # One stage, whose first step is its last.
    assert set(made) == {"tokens_0", "error"}
    wanted = muse.generate_tokens(
        PROMPTS, None, np.array(SEEDS, "int32"), muse.samplers_for(1, None, None, None)
    )
    np.testing.assert_array_equal(made["tokens_0"], wanted[0])
    images = call(model.signatures["serving_default"], inputs(PROMPTS[:1], [1]))
    assert images["images"].shape == (1, 32, 32, 3)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"path": "served/muse"}, "must end in a version"),
        ({"path": "served/0"}, "must end in a version"),
        ({"path": "served/007"}, "must end in a version"),
        ({"max_batch": 0}, "`max_batch` must be at least 1"),
        ({"precision": "float8"}, "`precision` must be one of"),
        ({"backend": "torch"}, "`backend` must be one of 'tensorflow', 'jax'"),
        ({"label": 'a" b'}, "`label` must be made of"),
        ({"stages": 3}, r"`stages` must lie in \[1, 2\]"),
        ({"num_steps": 100}, r"`num_steps` must lie in \[1, 16\]"),
    ],
)
def test_wrong_arguments(muse, tmp_path, arguments, error):
    with pytest.raises(ValueError, match=error):
        export(muse, **{"path": tmp_path / "tiny/1", **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@about_the_export_alone
def test_nothing_is_left_of_an_export_that_fails(muse, tmp_path, monkeypatch):
    from keras_muse.serving import files

    def fail(*args):
        raise OSError("disk full")

    # The SavedModel is there by then.
    monkeypatch.setattr(files, "_card", fail)
    with pytest.raises(OSError, match="disk full"):
        muse.export(tmp_path / "tiny/1", warm_up=False, stages=1, num_steps=1)
    assert not list((tmp_path / "tiny").iterdir())


@pytest.mark.slow
@about_the_export_alone
def test_a_tokenizer_of_keras_hub(muse, tmp_path):
    """It keeps its vocabulary outside of graphs; the export has one within."""
    tokenizer = keras_hub.models.T5Tokenizer(proto=muse.preprocessor.tokenizer.proto)
    other = MuseTextToImage(
        muse.backbone, MuseTextToImagePreprocessor(tokenizer, 8), SAMPLERS
    )
    path = other.export(tmp_path / "tiny/1", warm_up=False, stages=1)
    model = tf.saved_model.load(str(path))
    made = call(model.signatures["tokens"], inputs(PROMPTS, SEEDS))
    np.testing.assert_array_equal(made["tokens_0"], tokens_of(muse, PROMPTS, SEEDS)[0])


def test_what_another_process_says_is_told(tmp_path):
    other = "jax" if keras.config.backend() == "tensorflow" else "tensorflow"
    with pytest.raises(RuntimeError, match="`preset` must be one of"):
        export_preset("no_such", tmp_path / "1", backend=other, warm_up=False)


@pytest.fixture(scope="module")
def from_jax(muse, tmp_path_factory):
    """The folder of a version whose programs are JAX's."""
    return muse.export(tmp_path_factory.mktemp("from_jax") / "tiny/1", backend="jax")


@pytest.mark.slow
@only_on("jax", "is run on JAX")
def test_a_jax_export(from_jax, signatures, pictures):
    model = tf.saved_model.load(str(from_jax))
    values = inputs(PROMPTS, SEEDS, 2.0)
    made = call(model.signatures["tokens"], values)
    wanted = call(signatures["tokens"], values)
    np.testing.assert_array_equal(made["tokens_1"], wanted["tokens_1"])
    card = (from_jax / "model_card.md").read_text()
    assert "--xla_cpu_compilation_enabled=true" in card
    images, masks = pictures
    files = {
        "image_bytes": list(map(png, images)),
        "mask_bytes": list(map(mask_png, masks)),
    }
    painted = call(model.signatures["inpaint"], inputs(PROMPTS[:4], SEEDS[:4], **files))
    np.testing.assert_array_equal(painted["images"][~masks], images[~masks])


@pytest.mark.slow
@only_on("jax", "is run on JAX")
def test_a_jax_export_needs_the_flag_of_the_server(
    from_jax, signatures, program, tmp_path
):
    values = inputs(PROMPTS, SEEDS)
    (refused,) = loader.run(program, from_jax, [("tokens", values)], tmp_path)
    assert "XLA compilation disabled" in refused
    (made,) = loader.run(program, from_jax, [("tokens", values)], tmp_path, xla=True)
    wanted = call(signatures["tokens"], values)
    np.testing.assert_array_equal(made["tokens_1"], wanted["tokens_1"])


@pytest.mark.slow
@only_on("torch", "is run on PyTorch")
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_precisions(muse, exported, tmp_path, precision):
    path = muse.export(tmp_path / "tiny/1", precision=precision, warm_up=False)
    model = tf.saved_model.load(str(path))
    made = call(model.signatures["serving_default"], inputs(PROMPTS, SEEDS))
    assert set(made["error"]) == {b""} and made["images"].std() > 0
    again = call(model.signatures["serving_default"], inputs(PROMPTS, SEEDS))
    np.testing.assert_array_equal(made["images"], again["images"])
    weights = "variables/variables.data-00000-of-00001"
    smaller = (path / weights).stat().st_size / (exported / weights).stat().st_size
    assert smaller < 0.8
    # A row does not see its batch, in no precision.
    values = inputs(PROMPTS, SEEDS, [-1.0, 1.0, 3.0, 2.0] * 2)
    together = call(model.signatures["tokens"], values)
    for rows in ([0], [2, 1], [5, 3, 7]):
        apart = {name: value[rows] for name, value in values.items()}
        apart = call(model.signatures["tokens"], apart)
        np.testing.assert_array_equal(apart["tokens_1"], together["tokens_1"][rows])
    stored = re.search("Numbers stored: (.*)", (path / "model_card.md").read_text())[1]
    assert re.search(rf"\d,\d+ {precision}", stored)


@pytest.mark.slow
@only_on("jax", "is run on JAX")
def test_a_process_without_keras_runs_it(exported, signatures):
    values = inputs(["a red circle"], [5])
    wanted = call(signatures["tokens"], values)["tokens_1"]
    program = f"""
import sys
for name in ("keras", "jax", "torch", "keras_hub", "keras_muse"):
    sys.modules[name] = None
import tensorflow as tf
# `import tensorflow_text` does the same, and imports Keras for its layers.
tf.load_op_library({str(loader.text_ops())!r})
model = tf.saved_model.load({str(exported)!r})
made = model.signatures["tokens"](
    prompt=tf.constant(["a red circle"]), negative_prompt=tf.constant([""]),
    seed=tf.constant([5], tf.int64), guidance_scale=tf.constant([-1.0]),
)
print("tokens", made["tokens_1"].numpy().tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert f"tokens {wanted.tolist()}" in done.stdout


def test_other_formats_are_those_of_keras(tmp_path):
    with pytest.raises(ValueError, match="(?i)format"):
        tiny_muse().export(tmp_path / "x", format="no_such")

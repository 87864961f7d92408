"""The graph of the FID, of which a small one with the same names is built here."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from keras_muse.evaluation import FIDInception
from keras_muse.evaluation.inception import MEMBER
from tests.evaluation.given import pictures
from tests.tools import only_on

pytestmark = only_on("tensorflow", "TensorFlow runs it")

KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype("float32") / 50
GAMMA, BETA = np.linspace(0.5, 1.5, 5, dtype="float32"), np.full(5, 0.1, "float32")
MEAN, VARIANCE = np.full(5, 0.2, "float32"), np.full(5, 2.0, "float32")


def graph(extra=(), producer=8):
    """As old as that of 2015, with its operations, and decoding of files around."""
    import tensorflow as tf

    found = tf.compat.v1.GraphDef()
    found.versions.producer = producer

    def node(name, op, inputs=(), **attributes):
        made = found.node.add(name=name, op=op, input=list(inputs))
        for key, value in attributes.items():
            made.attr[key].CopyFrom(value)

    def number(name, value):
        tensor = tf.make_tensor_proto(value)
        kind = tf.compat.v1.AttrValue(type=tensor.dtype)
        node(name, "Const", dtype=kind, value=tf.compat.v1.AttrValue(tensor=tensor))

    def attribute(value):
        made = tf.compat.v1.AttrValue()
        if isinstance(value, bool):
            made.b = value
        elif isinstance(value, float):
            made.f = value
        elif isinstance(value, int):
            made.i = value
        elif isinstance(value, list):
            made.list.i.extend(value)
        else:
            made.s = value
        return made

    floats = tf.compat.v1.AttrValue(type=1)
    # What a picture file goes through: it is not part of the features.
    number("DecodeJpeg/contents_file", b"secret.jpg")
    node("DecodeJpeg/contents", "ReadFile", ["DecodeJpeg/contents_file"])
    node("DecodeJpeg", "DecodeJpeg", ["DecodeJpeg/contents"], channels=attribute(3))
    node(
        "Cast",
        "Cast",
        ["DecodeJpeg"],
        SrcT=tf.compat.v1.AttrValue(type=4),
        DstT=floats,
    )
    number("ExpandDims/dim", np.int32(0))
    node(
        "ExpandDims",
        "ExpandDims",
        ["Cast", "ExpandDims/dim"],
        T=floats,
        Tdim=tf.compat.v1.AttrValue(type=3),
    )
    number("ResizeBilinear/size", np.int32([9, 9]))
    node(
        "ResizeBilinear",
        "ResizeBilinear",
        ["ExpandDims", "ResizeBilinear/size"],
        T=floats,
    )
    number("Sub/y", np.float32(128.0))
    node("Sub", "Sub", ["ResizeBilinear", "Sub/y"], T=floats)
    number("Mul/y", np.float32(1 / 128))
    node("Mul", "Mul", ["Sub", "Mul/y"], T=floats)
    number("conv/kernel", KERNEL)
    node(
        "conv/Conv2D",
        "Conv2D",
        ["Mul", "conv/kernel"],
        T=floats,
        strides=attribute([1, 2, 2, 1]),
        padding=attribute(b"VALID"),
    )
    norm = {"mean": MEAN, "variance": VARIANCE, "beta": BETA, "gamma": GAMMA}
    for name, value in norm.items():
        number(f"conv/{name}", value)
    node(
        "conv/batchnorm",
        "BatchNormWithGlobalNormalization",
        ["conv/Conv2D", *(f"conv/{name}" for name in norm)],
        T=floats,
        variance_epsilon=attribute(0.001),
        scale_after_normalization=attribute(True),
    )
    node(
        "conv/CheckNumerics",
        "CheckNumerics",
        ["conv/batchnorm"],
        T=floats,
        message=attribute(b"not finite"),
    )
    node(
        "conv/control_dependency",
        "Identity",
        ["conv/batchnorm", "^conv/CheckNumerics"],
        T=floats,
    )
    node("conv", "Relu", ["conv/control_dependency"], T=floats)
    number("join/dim", np.int32(3))
    node(
        "join",
        "Concat",
        ["join/dim", "conv", "conv"],
        N=attribute(2),
        T=floats,
    )
    for make in extra:
        make(node, floats)
    node(
        "pool_3",
        "AvgPool",
        ["join"],
        T=floats,
        ksize=attribute([1, 4, 4, 1]),
        strides=attribute([1, 1, 1, 1]),
        padding=attribute(b"VALID"),
    )
    # The real one was frozen for one picture.
    shape = found.node[-1].attr["_output_shapes"].list.shape.add()
    for size in (1, 1, 1, 10):
        shape.dim.add(size=size)
    return found


@pytest.fixture
def path(tmp_path):
    path = tmp_path / MEMBER
    path.write_bytes(graph().SerializeToString())
    return path


def resized(image):
    """Bilinear without half pixels or antialiasing, 9 x 9."""
    height, width, _ = image.shape
    out = np.empty((9, 9, 3))
    for i in range(9):
        for j in range(9):
            y, x = i * height / 9, j * width / 9
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            upper = image[top, left] * (1 - dx) + image[top, right] * dx
            lower = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
            out[i, j] = upper * (1 - dy) + lower * dy
    return out


def expected(image):
    x = (resized(image.astype("float64")) - 128.0) / 128.0
    maps = np.empty((4, 4, 5))
    for i in range(4):
        for j in range(4):
            maps[i, j] = np.tensordot(
                x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3], KERNEL, 3
            )
    maps = (maps - MEAN) / np.sqrt(VARIANCE + 0.001) * GAMMA + BETA
    features = np.maximum(maps, 0.0).mean((0, 1))
    return np.concatenate([features, features])


def test_features_of_a_frozen_graph(path):
    extractor = FIDInception(path)
    images = pictures(3, 20, 24)
    features = extractor(images)
    assert features.shape == (3, 10) and features.dtype == np.float32
    for found, image in zip(features, images):
        np.testing.assert_allclose(found, expected(image), rtol=1e-4, atol=1e-5)
    assert extractor.name == "fid-inception-2015-12-05"
    assert extractor.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    # Pictures of any size, any number of them.
    assert extractor(pictures(1, 9, 30)).shape == (1, 10)
    with pytest.raises(ValueError, match="uint8: received"):
        extractor(images / 255.0)


def test_the_archive_is_read_without_unpacking(path, tmp_path):
    archive = tmp_path / "inception-2015-12-05.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("LICENSE"), io.BytesIO())
        tar.add(path, MEMBER)
    plain, packed = FIDInception(path), FIDInception(archive)
    assert plain.fingerprint == packed.fingerprint
    np.testing.assert_array_equal(plain(pictures(1)), packed(pictures(1)))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([MEMBER, archive.name])
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a whole archive with"):
        FIDInception(archive)
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other.pb"), io.BytesIO())
    with pytest.raises(ValueError, match="must be a whole archive with.*KeyError"):
        FIDInception(archive)


def test_files_that_are_none(path, tmp_path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be a whole TensorFlow GraphDef"):
        FIDInception(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="nodes 'ExpandDims' and 'pool_3'"):
        FIDInception(path)
    with pytest.raises(FileNotFoundError):
        FIDInception(tmp_path / "nowhere.pb")


def test_a_graph_that_could_touch_files_is_refused(path, tmp_path):
    def write_file(node, floats):
        """Runs before the pooling, as nothing but a dependency."""
        node("spy", "WriteFile", ["DecodeJpeg/contents_file", "DecodeJpeg/contents"])
        node("seen", "Identity", ["join", "^spy"], T=floats)

    bad = graph([write_file])
    bad.node[-1].input[0] = "seen"
    path.write_bytes(bad.SerializeToString())
    with pytest.raises(ValueError, match=r"operations \['ReadFile', 'WriteFile'\]"):
        FIDInception(path)
    # A function of the graph's own is an operation that is not known, either.
    bad = graph([lambda node, floats: node("call", "my_function", ["join"])])
    bad.node[-1].input[0] = "call"
    path.write_bytes(bad.SerializeToString())
    with pytest.raises(ValueError, match=r"operations \['my_function'\]"):
        FIDInception(path)
    # And a graph with a hole.
    bad.node[-1].input[0] = "nothing"
    path.write_bytes(bad.SerializeToString())
    with pytest.raises(ValueError, match="lacks its node 'nothing'"):
        FIDInception(path)

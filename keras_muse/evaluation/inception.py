"""The Inception network of the FID, from a file that the user brings."""

import hashlib
import tarfile

import numpy as np

from keras_muse.evaluation.features import check_pictures

__all__ = ["FIDInception"]

MEMBER = "classify_image_graph_def.pb"
# Pixels go in, behind the decoding of a JPEG file; the last pooling comes out.
START, END = "ExpandDims", "pool_3"
# More than any such graph has; a damaged archive can claim anything.
MAX_BYTES = 2**30
# All they do is arithmetic on what they are given: no files, no code.
ALLOWED = frozenset(
    "Add AddV2 AvgPool BatchNormWithGlobalNormalization BiasAdd CheckNumerics Concat "
    "ConcatV2 Const Conv2D ExpandDims FusedBatchNorm FusedBatchNormV3 Identity MaxPool "
    "Mul RealDiv Relu Reshape ResizeBilinear Rsqrt Squeeze Sub".split()
)


class FIDInception:
    """The features that published FIDs are computed on (arXiv 1706.08500), (B, 2048).

    They are those of TensorFlow's `inception-2015-12-05` graph: pixels from 0 to 255 go
    in at `ExpandDims:0`, the graph itself resizes them to 299 x 299 without
    antialiasing, `pool_3:0` is taken out. The file is not part of this package.
    TensorFlow runs the graph, whatever the backend of Keras.

    Only the part of the graph between the two is kept, and it may hold nothing but
    arithmetic: a file cannot read or write others, or run code.

    Args:
        path: str or path of `classify_image_graph_def.pb`, or of the
            `inception-2015-12-05.tgz` that it comes in, which is not unpacked.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated, is no such graph, or the graph has operations
            other than arithmetic.
    """

    name = "fid-inception-2015-12-05"

    def __init__(self, path):
        import tensorflow as tf

        data = _read(path)
        self.fingerprint = hashlib.sha256(data).hexdigest()
        graph = tf.Graph()
        with graph.as_default():
            # An open batch and size, which the nodes behind it then have as well.
            self._pixels = tf.compat.v1.placeholder("float32", (None, None, None, 3))
            (self._pool,) = tf.import_graph_def(
                _needed(data, path),
                input_map={f"{START}:0": self._pixels},
                return_elements=[f"{END}:0"],
                name="",
            )
        # A function would take the old operations of the graph for too old.
        self._session = tf.compat.v1.Session(graph=graph)

    def __call__(self, images):
        """(B, 2048) float32 array of pictures, (B, H, W, 3) uint8."""
        pixels = check_pictures(images).astype("float32")
        pooled = self._session.run(self._pool, {self._pixels: pixels})
        return np.reshape(pooled, (len(pixels), -1))


def _read(path):
    """The bytes of the graph."""
    with open(path, "rb") as file:
        if file.read(2) != b"\x1f\x8b":
            file.seek(0)
            return file.read()
    try:
        with tarfile.open(path, "r:gz") as tar:
            member = tar.getmember(MEMBER)
            if not member.isfile() or member.size > MAX_BYTES:
                raise ValueError(f"its {MEMBER!r} is no file of a graph")
            return tar.extractfile(member).read()
    except (tarfile.TarError, KeyError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"`path` must be a whole archive with {MEMBER!r}: received {str(path)!r}, "
            f"which failed with {type(error).__name__}: {error}."
        ) from error


def _needed(data, path):
    """The part of a graph between pixels and features, checked."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    whole = tf.compat.v1.GraphDef()
    try:
        whole.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(
            f"`path` must be a whole TensorFlow GraphDef: received {str(path)!r}, "
            f"{len(data)} bytes that are none. Copy it again."
        ) from error
    nodes = {node.name: node for node in whole.node}
    if START not in nodes or END not in nodes:
        raise ValueError(
            f"`path` must be a graph with the nodes {START!r} and {END!r}: received "
            f"{str(path)!r}, a graph of {len(nodes)} nodes without."
        )
    found, waiting = {START}, [END]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if name not in nodes:
            raise ValueError(f"The graph {str(path)!r} lacks its node {name!r}.")
        found.add(name)
        # "name", "name:1", or "^name" for what merely has to run before.
        waiting += [i.lstrip("^").partition(":")[0] for i in nodes[name].input]
    found.remove(START)
    kinds = {nodes[name].op for name in found}
    if kinds - ALLOWED:
        raise ValueError(
            f"The graph {str(path)!r} must hold nothing but arithmetic: received the "
            f"operations {sorted(kinds - ALLOWED)}."
        )
    part = tf.compat.v1.GraphDef(versions=whole.versions)
    for node in whole.node:
        if node.name in found:
            kept = part.node.add()
            kept.CopyFrom(node)
            # It was frozen for one picture.
            kept.attr.pop("_output_shapes", None)
    return part

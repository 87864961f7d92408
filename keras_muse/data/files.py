"""Files on a disk or, with a `scheme://`, wherever TensorFlow reaches."""

import contextlib
import glob
import os
import uuid

__all__ = [
    "differences",
    "exists",
    "files_below",
    "make_folder",
    "matching",
    "open_file",
    "read",
    "replace",
    "size",
]


def differences(found, wanted):
    """What differs between the settings of a file and those of a run that goes on.

    Args:
        found: dict, of the file.
        wanted: dict, of the run.

    Returns:
        str such as `"size: 3 there and 2 now"`; empty if they are the same.
    """
    return "; ".join(
        f"{key}: {found.get(key)!r} there and {wanted.get(key)!r} now"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    )


def is_remote(path):
    """Whether TensorFlow has to read it, such as `gs://...`."""
    return "://" in str(path)


def gfile():
    """TensorFlow's file systems."""
    import tensorflow as tf

    return tf.io.gfile


def open_file(path, mode="rb"):
    """An open file."""
    return gfile().GFile(str(path), mode) if is_remote(path) else open(path, mode)


def read(path, offset=0, size=-1):
    """Bytes of a file: `size` of them from `offset` on, or all that are left."""
    with open_file(path) as file:
        if offset:
            file.seek(offset)
        return file.read(size)


def exists(path):
    """Whether there is a file or folder."""
    return gfile().exists(str(path)) if is_remote(path) else os.path.exists(path)


def size(path):
    """Bytes of a file."""
    return gfile().stat(str(path)).length if is_remote(path) else os.path.getsize(path)


def matching(pattern):
    """Sorted paths that match a glob pattern."""
    if is_remote(pattern):
        return sorted(gfile().glob(str(pattern)))
    return sorted(glob.glob(str(pattern)))


def files_below(folder):
    """Sorted paths of all files of a folder and those in it, relative to it."""
    walk = gfile().walk(folder) if is_remote(folder) else os.walk(folder)
    return sorted(
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in walk
        for name in names
    )


def make_folder(path):
    """A folder and those above it, unless there."""
    gfile().makedirs(str(path)) if is_remote(path) else os.makedirs(path, exist_ok=True)


@contextlib.contextmanager
def replace(path):
    """A path beside `path` to write to, which takes its place when that went well.

    What stood there stays until then, and stays if writing fails.

    Raises:
        OSError: naming the path, if it cannot be written, such as on a full disk.
    """
    # Workers of a cluster write to one folder, and a task may run twice.
    beside = f"{path}.part-{uuid.uuid4().hex}"
    try:
        yield beside
        if is_remote(path):
            gfile().rename(beside, str(path), overwrite=True)
        else:
            # On the disk before it has its name, or a crash could leave it empty.
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
    except BaseException as error:
        with contextlib.suppress(Exception):
            gfile().remove(beside) if is_remote(path) else os.remove(beside)
        # TensorFlow has errors of its own for what goes wrong on a disk.
        of_tensorflow = type(error).__module__.startswith("tensorflow")
        if not isinstance(error, OSError) and not of_tensorflow:
            raise
        raise _WriteError(path, error) from error


class _WriteError(OSError):
    """Names the path."""

    def __init__(self, path, error):
        super().__init__(f"cannot write {str(path)!r}: {error}")
        self.errno = getattr(error, "errno", None)

"""What a request may hold: each row is read, and refused, by itself.

A server puts the rows of many clients into one batch, and an error of TensorFlow is one
of the whole batch. So a bad row gets a message in place of a picture, and its batch
mates theirs.
"""

import tensorflow as tf

__all__ = [
    "MAX_GUIDANCE",
    "MAX_PROMPT_BYTES",
    "OWN_GUIDANCE",
    "check_batch",
    "errors_of",
    "guidance_check",
    "prompt_check",
    "read_pictures",
    "seed_check",
]

# Guidance makes rounding larger as well: at 1,000, four rows of a thousand had other
# tokens in another batch, at 100 none.
MAX_GUIDANCE = 100.0
# SentencePiece takes 15 seconds for a megabyte of letters that it does not know.
MAX_PROMPT_BYTES = 16384
# Stands for the guidance scales of the exported samplers.
OWN_GUIDANCE = -1.0


def check_batch(**inputs):
    """Fails the batch, INVALID_ARGUMENT, if it is empty or its inputs do not pair."""
    counts = {name: tf.shape(value)[0] for name, value in inputs.items()}
    first, *others = counts
    checks = [
        tf.debugging.assert_positive(
            counts[first], f"`{first}` must hold at least one row: received none."
        )
    ]
    checks += [
        tf.debugging.assert_equal(
            counts[name],
            counts[first],
            f"`{name}` must have as many rows as `{first}`.",
        )
        for name in others
    ]
    return checks


def errors_of(*checks):
    """The first thing that is wrong with each row.

    Args:
        *checks: pairs of (B,) bool, whether a row is right, and (B,) or () string, what
            to say if not.

    Returns:
        (B,) string, empty where all is right.
    """
    errors = tf.zeros_like(checks[0][0], tf.string)
    for right, message in reversed(checks):
        message = tf.strings.join(["INVALID_ARGUMENT: ", message])
        errors = tf.where(right, errors, message)
    return errors


def prompt_check(name, prompts):
    """Whether prompts are UTF-8 and not too long, for `errors_of`."""
    valid = tf.strings.unicode_transcode(
        prompts, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False
    )
    right = tf.logical_and(
        prompts == valid, tf.strings.length(prompts) <= MAX_PROMPT_BYTES
    )
    return right, f"`{name}` must be UTF-8 of at most {MAX_PROMPT_BYTES} bytes."


def seed_check(seeds):
    """Whether seeds are of int32, for `errors_of`."""
    right = tf.logical_and(seeds >= -(2**31), seeds < 2**31)
    message = "`seed` must lie in [-2^31, 2^31): received "
    return right, tf.strings.join([message, tf.strings.as_string(seeds), "."])


def guidance_check(scales):
    """Whether guidance scales are in range, for `errors_of`. NaN is not."""
    right = tf.logical_and(scales >= 0.0, scales <= MAX_GUIDANCE)
    right = tf.logical_or(right, scales == OWN_GUIDANCE)
    message = (
        f"`guidance_scale` must lie in [0, {MAX_GUIDANCE:g}], or be {OWN_GUIDANCE:g} "
        "for the model's own: received "
    )
    return right, tf.strings.join([message, tf.strings.as_string(scales), "."])


def read_pictures(contents, height, width, channels):
    """PNG or JPEG files of one size as pixels; what cannot be read is left black.

    Args:
        contents: (B,) string.
        height: int.
        width: int.
        channels: int. 3 for colours, 1 for grey.

    Returns:
        (B, height, width, channels) uint8, and (B,) bool: which could be read.
    """
    count = tf.shape(contents)[0]

    def load(row, content):
        # Asked before any pixel is decoded: a file of 1 kB may say 30,000 x 30,000.
        size = tf.cond(
            tf.strings.substr(content, 0, 4) == b"\x89PNG",
            lambda: _png_size(content),
            lambda: tf.io.extract_jpeg_shape(content)[:2],
        )
        with tf.control_dependencies(
            [tf.debugging.assert_equal(size, [height, width])]
        ):
            content = tf.identity(content)
        picture = tf.io.decode_image(content, channels, expand_animations=False)
        return row, tf.ensure_shape(picture, (height, width, channels))

    def put(state, row):
        index, picture = row
        pictures, read = state
        return (
            tf.tensor_scatter_nd_update(pictures, [[index]], [picture]),
            tf.tensor_scatter_nd_update(read, [[index]], [True]),
        )

    # The only thing of TensorFlow in which a broken file is not the end of a graph.
    rows = tf.data.Dataset.from_tensor_slices((tf.range(count), contents))
    rows = rows.map(load).ignore_errors()
    nothing = (
        tf.zeros([count, height, width, channels], tf.uint8),
        tf.zeros([count], tf.bool),
    )
    return rows.reduce(nothing, put)


def _png_size(content):
    numbers = tf.io.decode_raw(tf.strings.substr(content, 16, 8), tf.uint8)
    numbers = tf.cast(tf.reshape(numbers, (2, 4)), tf.int32)
    # The first bit must be 0.
    return tf.reduce_sum(numbers * [1 << 24, 1 << 16, 1 << 8, 1], axis=1)

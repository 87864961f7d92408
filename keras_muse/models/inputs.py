"""What a caller of `generate` may pass, turned into plain batches."""

import numbers
import typing

import numpy as np

from keras_muse.models.pictures import as_masks, as_pictures

__all__ = [
    "EditBatch",
    "as_batch_seeds",
    "as_batches",
    "as_count",
    "as_edit_batches",
    "as_num_steps",
    "as_scales",
    "as_seeds",
    "as_share",
]


def as_batches(inputs):
    """The batches of what was passed to `generate`.

    Args:
        inputs: a string, a list, array or tensor of strings, a dict with the keys
            `"prompts"` and optionally `"negative_prompts"`, or a `tf.data.Dataset` of
            any of them. The caller's object is never changed.

    Returns:
        (batches, is_single): a list of `(prompts, negative_prompts)`, two lists of
        str, the second `None` where there are none; and whether one single string was
        passed.

    Raises:
        TypeError: for anything else.
        ValueError: if there is no prompt, a dict lacks `"prompts"` or has unknown keys,
            or the numbers of prompts and negative prompts differ.
    """
    if hasattr(inputs, "element_spec") and hasattr(inputs, "as_numpy_iterator"):
        batches = [_batch(element)[0] for element in inputs.as_numpy_iterator()]
        if not batches:
            raise ValueError("`inputs` must hold at least one prompt: received none.")
        return batches, False
    batch, is_single = _batch(inputs)
    return [batch], is_single


def _batch(inputs):
    if not isinstance(inputs, dict):
        prompts, is_single = _strings("inputs", inputs)
        return (prompts, None), is_single
    unknown = set(inputs) - {"prompts", "negative_prompts"}
    if "prompts" not in inputs or unknown:
        raise ValueError(
            "`inputs` must have the key 'prompts' and may have 'negative_prompts': "
            f"received the keys {sorted(map(str, inputs))}."
        )
    prompts, is_single = _strings("prompts", inputs["prompts"])
    if inputs.get("negative_prompts") is None:
        return (prompts, None), is_single
    negative = inputs["negative_prompts"]
    negative = _strings_for("negative_prompts", negative, len(prompts), "prompts")
    return (prompts, negative), is_single


class EditBatch(typing.NamedTuple):
    """Pictures that are edited together.

    Attributes:
        pictures: list of (H, W, 3) uint8 arrays.
        masks: list of (H, W) bool arrays, or `None`.
        prompts: list of str.
        negative_prompts: list of str, or `None`.
    """

    pictures: list
    masks: list | None
    prompts: list
    negative_prompts: list | None


def as_edit_batches(inputs, with_masks=False):
    """The batches of what was passed to the `generate` of an editing task.

    Args:
        inputs: a dict with the keys `"images"`, `"prompts"`, optionally
            `"negative_prompts"` and, with masks, `"masks"`; or a `tf.data.Dataset` of
            batches of them. See `keras_muse.models.pictures` for what pictures and
            masks may be. One string serves all pictures. The caller's object is never
            changed.
        with_masks: bool. Whether there must be `"masks"`; else there must be none.
            Defaults to `False`.

    Returns:
        (batches, is_single): a list of `EditBatch`, and whether one single picture was
        passed.

    Raises:
        TypeError, ValueError: naming the key, what it was and what it has to be.
    """
    if hasattr(inputs, "element_spec") and hasattr(inputs, "as_numpy_iterator"):
        elements = inputs.as_numpy_iterator()
        batches = [_edit_batch(element, with_masks)[0] for element in elements]
        if not batches:
            raise ValueError("`inputs` must hold at least one picture: received none.")
        return batches, False
    batch, is_single = _edit_batch(inputs, with_masks)
    return [batch], is_single


def _edit_batch(inputs, with_masks):
    needed = {"images", "prompts"} | ({"masks"} if with_masks else set())
    if not isinstance(inputs, dict):
        raise TypeError(
            f"`inputs` must be a dict with the keys {sorted(needed)}, or a "
            f"`tf.data.Dataset` of them: received {type(inputs).__name__}."
        )
    if not needed <= set(inputs) <= needed | {"negative_prompts"}:
        raise ValueError(
            f"`inputs` must have the keys {sorted(needed)} and may have "
            f"'negative_prompts': received the keys {sorted(map(str, inputs))}."
        )
    pictures, is_single = as_pictures(inputs["images"])
    count = len(pictures)
    masks = as_masks(inputs["masks"], pictures) if with_masks else None
    prompts = _strings_for("prompts", inputs["prompts"], count)
    negative = None
    if inputs.get("negative_prompts") is not None:
        negative = _strings_for("negative_prompts", inputs["negative_prompts"], count)
    return EditBatch(pictures, masks, prompts, negative), is_single


def _strings_for(name, value, count, items="images"):
    """One string for each of `count` items."""
    strings, one_for_all = _strings(name, value)
    if one_for_all:
        strings = strings * count
    if len(strings) != count:
        raise ValueError(
            f"`{name}` must be one string or one for each of the {count} {items}: "
            f"received {len(strings)}."
        )
    return strings


def as_share(name, value):
    """A float in [0, 1].

    Raises:
        TypeError: if it is no number.
        ValueError: if it is outside.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number: received {value!r}.")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1]: received {value}.")
    return float(value)


def as_count(name, value, least=0):
    """An int of at least `least`.

    Raises:
        TypeError: if it is no int.
        ValueError: if it is smaller.
    """
    if not _is_int(value):
        raise TypeError(f"`{name}` must be an int: received {value!r}.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}: received {value}.")
    return int(value)


def _strings(name, value):
    """A value as a list of str, and whether it was a single one."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    is_single = isinstance(value, (str, bytes))
    values = [value] if is_single else value
    if not isinstance(values, (list, tuple)):
        raise TypeError(
            f"`{name}` must be a string or a list of strings: received {value!r} of "
            f"type {type(value).__name__}."
        )
    if not values:
        raise ValueError(f"`{name}` must hold at least one prompt: received none.")
    for item in values:
        if not isinstance(item, (str, bytes)):
            raise TypeError(
                f"`{name}` must hold strings only: received {item!r} of type "
                f"{type(item).__name__} among them."
            )
    return [s.decode() if isinstance(s, bytes) else str(s) for s in values], is_single


def as_seeds(seed, count):
    """The seed of every row.

    Args:
        seed: `None` for random seeds; an int, from which row i gets `seed + i`; or a
            list with one int for each row.
        count: int. Rows.

    Returns:
        (count,) int32 array.

    Raises:
        TypeError: if `seed` is of another type.
        ValueError: if an int is outside int32, or there is not one for each row.
    """
    if seed is None:
        bits = np.random.SeedSequence().generate_state(count, np.uint32)
        return bits.astype(np.uint32).view(np.int32)
    if isinstance(seed, np.ndarray):
        seed = list(seed) if seed.ndim else seed[()]
    if _is_int(seed):
        seeds = [int(seed) + row for row in range(count)]
    elif isinstance(seed, (list, tuple)) and all(map(_is_int, seed)):
        if len(seed) != count:
            raise ValueError(
                "`seed` must be an int or one int for each prompt: received "
                f"{len(seed)} seeds for {count} prompts."
            )
        seeds = [int(value) for value in seed]
    else:
        raise TypeError(
            "`seed` must be None, an int or a list of ints, one for each prompt: "
            f"received {seed!r}."
        )
    for value in seeds:
        if not -(2**31) <= value < 2**31:
            raise ValueError(f"`seed` must lie in [-2^31, 2^31): received {value}.")
    return np.array(seeds, dtype="int32")


def as_batch_seeds(seed, counts):
    """The seeds of the rows of several batches.

    Args:
        seed: as of `as_seeds`, for the rows of all batches.
        counts: list of int. Rows of each batch.

    Returns:
        list of (count,) int32 arrays.

    Raises:
        TypeError, ValueError: as `as_seeds`.
    """
    return np.split(as_seeds(seed, sum(counts)), np.cumsum(counts)[:-1])


def as_num_steps(num_steps, defaults, num_tokens):
    """Decoding steps of every stage.

    Args:
        num_steps: `None`, an int for all stages, or one int a stage.
        defaults: list of int. Used where `num_steps` is `None`.
        num_tokens: list of int. The largest number of steps of every stage: each step
            reveals at least one token.

    Returns:
        list of int.

    Raises:
        TypeError: if `num_steps` is not made of ints.
        ValueError: if a number is below 1 or above the number of tokens, or there are
            not as many as stages.
    """
    steps = _for_stages("num_steps", num_steps, defaults)
    for value, limit in zip(steps, num_tokens):
        if not _is_int(value):
            raise TypeError(
                "`num_steps` must be an int, or one for each stage: received "
                f"{num_steps!r}."
            )
        if not 1 <= value <= limit:
            raise ValueError(
                f"`num_steps` must lie in [1, {limit}], the number of image tokens: "
                f"received {value}."
            )
    return [int(value) for value in steps]


def as_scales(name, scale, defaults):
    """A number of at least 0 for every stage; arguments as of `as_num_steps`."""
    scales = _for_stages(name, scale, defaults)
    for value in scales:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number:
            raise TypeError(
                f"`{name}` must be a number, or one for each stage: received {scale!r}."
            )
        if not (np.isfinite(value) and value >= 0):
            raise ValueError(
                f"`{name}` must be finite and at least 0: received {value}."
            )
    return [float(value) for value in scales]


def _for_stages(name, value, defaults):
    if value is None:
        return list(defaults)
    if not isinstance(value, (list, tuple)):
        return [value] * len(defaults)
    if len(value) != len(defaults):
        raise ValueError(
            f"`{name}` must be one value or one for each of the {len(defaults)} "
            f"stages: received {value!r}."
        )
    return list(value)


def _is_int(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)

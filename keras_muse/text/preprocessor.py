"""Prompts to token ids and a padding mask, eagerly or inside a TensorFlow graph."""

import warnings

import keras_hub
import numpy as np

__all__ = ["tokenize_prompts"]

truncation_reported = False


def tokenize_prompts(tokenizer, prompts, sequence_length):
    """Token ids of a fixed length: the pieces of a prompt, `</s>`, then `<pad>`.

    A prompt that is too long loses its last pieces and keeps its `</s>`. The first one
    of a process that does is reported by a warning; inside `tf.data` or a
    `tf.function` prompts are cut without one. The empty prompt is `</s>` alone, so
    every row has a visible token.

    Args:
        tokenizer: `keras_hub.models.T5Tokenizer`, for instance a `MuseTokenizer`.
        prompts: str, list or tuple of str, numpy array or TensorFlow tensor of strings,
            () or (B,). A single prompt is a batch of one. UTF-8 bytes count as str.
        sequence_length: int, at least 1. Length L of every row.

    Returns:
        dict of `token_ids`, (B, L) int32, and `padding_mask`, (B, L) bool, false at
        pads: tensors of the Keras backend, or of TensorFlow inside its graphs.

    Raises:
        TypeError: if `prompts` are not strings.
        ValueError: if `prompts` is empty or of two and more dimensions, or
            `sequence_length` is not a positive int.

    Example:
        ```python
        rows = keras_muse.text.tokenize_prompts(tokenizer, ["a cat", ""], 8)
        dataset = dataset.batch(16).map(
            lambda prompts: keras_muse.text.tokenize_prompts(tokenizer, prompts, 8)
        )
        ```
    """
    is_int = isinstance(sequence_length, (int, np.integer))
    if not is_int or isinstance(sequence_length, bool) or sequence_length < 1:
        raise ValueError(
            f"`sequence_length` must be a positive int. Received: {sequence_length!r}."
        )
    pieces = tokenizer(flat_prompts(prompts))
    if isinstance(pieces, list):
        report_truncation(max(map(len, pieces)) + 1, sequence_length)
    pack = keras_hub.layers.StartEndPacker(
        sequence_length=int(sequence_length),
        end_value=tokenizer.end_token_id,
        pad_value=tokenizer.pad_token_id,
        return_padding_mask=True,
    )
    token_ids, padding_mask = pack(pieces)
    return {"token_ids": token_ids, "padding_mask": padding_mask}


def flat_prompts(prompts):
    """The prompts as a list of str, or as a (B,) tensor of a TensorFlow graph."""
    if isinstance(prompts, (str, bytes)):
        prompts = [prompts]
    elif is_symbolic(prompts):
        return flat_symbolic(prompts)
    elif hasattr(prompts, "dtype") and hasattr(prompts, "shape"):
        if len(prompts.shape) > 1:
            raise ValueError(
                "`prompts` must have the shape () or (B,). "
                f"Received: {tuple(prompts.shape)}."
            )
        prompts = np.atleast_1d(np.asarray(prompts)).tolist()
    elif not isinstance(prompts, (list, tuple)):
        raise TypeError(
            "`prompts` must be a string or a list of strings. "
            f"Received: {prompts!r} of type {type(prompts).__name__}."
        )
    if not prompts:
        raise ValueError("`prompts` must hold at least one prompt. Received none.")
    return [text(prompt) for prompt in prompts]


def is_symbolic(prompts):
    """Whether this is a tensor of a TensorFlow graph, which has no values yet."""
    dtype = getattr(prompts, "dtype", None)
    return hasattr(dtype, "as_numpy_dtype") and not hasattr(prompts, "numpy")


def flat_symbolic(prompts):
    """A TensorFlow tensor of shape () or (B,) as (B,)."""
    if prompts.dtype.name != "string":
        raise TypeError(
            "`prompts` must be a tensor of strings. Received one of "
            f"{prompts.dtype.name}."
        )
    if prompts.shape.rank not in (0, 1):
        raise ValueError(
            "`prompts` must be known to have the shape () or (B,). "
            f"Received: {prompts.shape}."
        )
    return prompts[None] if prompts.shape.rank == 0 else prompts


def text(prompt):
    """One prompt as str."""
    if isinstance(prompt, bytes):
        return prompt.decode("utf-8")
    if isinstance(prompt, str):
        return str(prompt)
    raise TypeError(
        "`prompts` must be a string or a flat list of strings. "
        f"Received: {prompt!r} of type {type(prompt).__name__} among them."
    )


def report_truncation(length, sequence_length):
    """Warns about a row that is too long, once a process."""
    global truncation_reported
    if length <= sequence_length or truncation_reported:
        return
    truncation_reported = True
    warnings.warn(
        f"A prompt has {length} tokens with its `</s>`, more than "
        f"`sequence_length`={sequence_length}: its end is cut off. Further ones are "
        "cut without a warning.",
        UserWarning,
        stacklevel=3,
    )

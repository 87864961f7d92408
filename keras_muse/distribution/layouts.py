"""Which weights of a transformer are cut across devices, and along which axis."""

import re

__all__ = ["check_layout", "transformer_layout"]

_BLOCK = r"(low_res_)?block_\d+"


def transformer_layout():
    """How the weights of both masked transformers are cut for model parallelism.

    As in Megatron (arXiv 1909.08053): each device has some of the heads, some of the
    inner units of an MLP and some of the codes of the head, so that a layer needs one
    exchange behind its attention and one behind its MLP. What no rule matches is whole
    on every device, as are the image tokenizer and the text encoder.

    Returns:
        dict of regular expression to a tuple with one axis of the mesh, or `None`, for
        each axis of the weight. `keras.distribution.LayoutMap` holds it against the
        whole path of a variable.
    """
    return {
        rf"{_BLOCK}/(self|cross)_attention/query/kernel": (None, "model"),
        rf"({_BLOCK}/self_attention_memory|memory_projection_\d+)/(key|value)/kernel": (
            None,
            "model",
        ),
        rf"{_BLOCK}/(self|cross)_attention/output/kernel": ("model", None),
        rf"{_BLOCK}/mlp/(up|gate)/kernel": (None, "model"),
        rf"{_BLOCK}/mlp/(up|gate)/bias": ("model",),
        rf"{_BLOCK}/mlp/down/kernel": ("model", None),
        r"head/kernel": (None, "model"),
        r"head/bias": ("model",),
    }


def check_layout(layout, variables):
    """Raises if a rule is about nothing: Keras would leave those weights whole.

    Args:
        layout: dict, as of `transformer_layout`.
        variables: list of `keras.Variable`.

    Raises:
        ValueError: naming the first rule that matches no variable.
    """
    paths = [variable.path for variable in variables]
    for rule in layout:
        if not any(re.fullmatch(rule, path) for path in paths):
            # The longest is the likeliest to be of a layer deep inside.
            example = max(paths, key=len, default="none")
            raise ValueError(
                f"The rule {rule!r} of `layout` matches no variable, so it would do "
                "nothing. A rule has to match a whole path, such as "
                f"{example!r}: '.*' in front matches any beginning."
            )

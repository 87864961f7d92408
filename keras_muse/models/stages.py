"""What a stage computes, as pure functions of tensors: tasks and exports compile them.

Text is a list of one or two dicts of `text_embeddings` and `padding_mask`: the prompts,
and what guidance leads away from.
"""

import numpy as np
from keras import ops, tree

from keras_muse.decoding import decode
from keras_muse.image_tokenizer import downscale
from keras_muse.transformer.partial_pass import full_pass, partial_pass

__all__ = [
    "critic_of",
    "filled",
    "guided_prediction",
    "is_guided",
    "judgement",
    "num_changing_of",
    "pass_inputs",
    "pixels_of",
    "refreshing_prediction",
    "tokens_of",
]


def tokens_of(tokenizer, images, grid):
    """Image tokens of pictures of any size, scaled to a grid.

    Args:
        tokenizer: `VQGAN`.
        images: (B, H, W, 3) uint8, or float in [0, 1].
        grid: (rows, columns) of the tokens; its pixels are no more than those of the
            images.

    Returns:
        (B, N) int32.
    """
    size = [side * tokenizer.downsampling_factor for side in grid]
    return tokenizer.encode(downscale(images, *size))


def pixels_of(tokenizer, tokens, grid):
    """The picture of image tokens: (B, H, W, 3) uint8, from (B, N) int32."""
    images = tokenizer.decode(tokens, grid=grid)
    return ops.cast(ops.round(images * 255.0), "uint8")


def is_guided(*settings):
    """Whether one of several samplers needs the second pass."""
    return any(sampler.guidance_scale != 1.0 for sampler in settings)


def pass_inputs(text, guided, low_res_ids=None):
    """What a stage sees beside its own tokens; of both passes in one batch if guided.

    Args:
        text: list of one dict, or of two.
        guided: bool. Whether there is a second pass.
        low_res_ids: optional (B, M) int32, the tokens of the stage before.

    Returns:
        dict of tensors with B rows, 2 B if guided.
    """
    rows = text if guided else text[:1]
    if low_res_ids is not None:
        # Without its caption a row still sees its low-res tokens.
        rows = [{**row, "low_res_ids": low_res_ids} for row in rows]
    return {
        name: ops.concatenate([row[name] for row in rows], axis=0) for name in rows[0]
    }


def guided_prediction(transformer, memory, guided, always=True):
    """The `predict` of `decode`: logits, guided by a second pass in the same batch.

    Args:
        transformer: that of the stage.
        memory: what its `project_memory` made of `pass_inputs`.
        guided: bool. Whether the memory is that of two passes.
        always: bool. Whether every step is guided. If not, the second pass is left
            out where no row is, for which the first is compiled once more. Defaults to
            `True`.

    Returns:
        function of ids (B, N) and guidance (B,) to logits (B, N, V).
    """

    def alone(ids):
        count = ops.shape(ids)[0]
        first = tree.map_structure(lambda values: values[:count], memory)
        return ops.cast(transformer.features(ids, first), "float32")

    def both(ids, guidance):
        hidden = transformer.features(_of_passes(ids, guided), memory)
        return _mixed(hidden, guidance, guided)

    def predict(ids, guidance):
        if always or not guided:
            return transformer.head(both(ids, guidance))
        return transformer.head(
            ops.cond(
                ops.any(guidance != 1.0),
                lambda: both(ids, guidance),
                lambda: alone(ids),
            )
        )

    return predict


def critic_of(backbone, stage, sampler):
    """The token critic that a sampler asks for.

    Args:
        backbone: `MuseBackbone`.
        stage: int. Index of the stage.
        sampler: `Sampler`.

    Returns:
        `TokenCritic`, or `None` if the order of the sampler is not `"critic"`.

    Raises:
        ValueError: if there is no critic for that order.
    """
    if sampler.order != "critic":
        return None
    critic = backbone.critics[stage]
    if critic is None:
        raise ValueError(
            "`order` must not be 'critic' without a `TokenCritic` among the `critics` "
            f"of the backbone: received order='critic' at stage {stage}, which has "
            "none."
        )
    return critic


def judgement(critic, memory):
    """The `critic` of `decode`: it reads the prompt, and is not guided.

    Args:
        critic: `TokenCritic` or `None`.
        memory: what its `project_memory` made of the prompts.

    Returns:
        function of ids (B, N) to logits (B, N); `None` without a critic.
    """
    return critic and (lambda ids: critic.judge(ids, memory))


def refreshing_prediction(transformer, memory, guided, num_changing):
    """The `first` of `decode`: one pass of all tokens, then passes of a part of them.

    Args:
        transformer: that of the stage.
        memory: what its `project_memory` made of `pass_inputs`.
        guided: bool. Whether the memory is that of two passes.
        num_changing: int, at most N, see `num_changing_of`. Tokens that pass in the
            later steps.

    Returns:
        function of ids (B, N) and guidance (B,) to logits (B, N, V) and a function of
        the same to the same, which means something where a token was masked.
    """

    def first(ids, guidance):
        hidden, seen = full_pass(transformer, _of_passes(ids, guided), memory)
        tokens = ops.arange(ids.shape[1], dtype="int32")
        changing = ids == transformer.mask_id
        count = ops.sum(ops.cast(changing, "int32"), axis=1, keepdims=True)
        most = 3 * _quarter(transformer.num_tokens)
        changing = ops.logical_or(changing, count > most)
        # These first; of each kind as they lie, equal on every backend.
        turns = ops.where(changing, tokens, tokens + ids.shape[1])
        turns = ops.argsort(turns, axis=1)
        places = ops.cast(ops.argsort(turns, axis=1), "int32")
        places = ops.minimum(places, num_changing - 1)[..., None]
        positions = ops.cast(turns[:, :num_changing], "int32")
        positions = _of_passes(positions, guided)
        changing = _of_passes(changing, guided)

        def rest(ids, guidance):
            hidden = partial_pass(
                transformer,
                _of_passes(ids, guided),
                memory,
                seen,
                positions,
                changing,
            )
            logits = transformer.head(_mixed(hidden, guidance, guided))
            return ops.take_along_axis(logits, places, axis=1)

        return transformer.head(_mixed(hidden, guidance, guided)), rest

    return first


def num_changing_of(image_ids, transformer):
    """How many tokens pass in the steps after one of all.

    In a row with more than three quarters masked all change, since less would not pay,
    else those that are masked: a row does not depend on its batch mates.

    Args:
        image_ids: (B, N) int numpy array before the first of some steps.
        transformer: that of the stage.

    Returns:
        int, whole quarters of N, as each number is a program of its own; `None` if all
        tokens of all rows change, and nothing need be kept.
    """
    quarter = _quarter(transformer.num_tokens)
    counts = np.sum(image_ids == transformer.mask_id, axis=1)
    if counts.min() > 3 * quarter:
        return None
    quarters = max(-(-int(counts.max()) // quarter), 1)
    return min(quarters * quarter, transformer.num_tokens)


def _quarter(num_tokens):
    return -(-num_tokens // 4)


def _of_passes(rows, guided):
    """The rows of every pass in one batch."""
    return ops.concatenate([rows, rows]) if guided else rows


def _mixed(hidden, guidance, guided):
    """The hidden state that is guided, float32, of those of every pass."""
    hidden = ops.cast(hidden, "float32")
    if not guided:
        return hidden
    cond, uncond = ops.split(hidden, 2)
    guidance = guidance[:, None, None]
    mixed = uncond + guidance * (cond - uncond)
    # Rounded, the sum is not what it is without guidance.
    return ops.where(guidance == 1.0, cond, mixed)


def filled(
    transformer,
    memory,
    guided,
    image_ids,
    seeds,
    sampler,
    stage,
    num_changing=None,
    **options,
):
    """Tokens of a stage without masked ones.

    Args:
        transformer: that of the stage.
        memory: what its `project_memory` made of `pass_inputs`.
        guided: bool. Whether the memory is that of two passes.
        image_ids: (B, N) int32.
        seeds: (B,) int32.
        sampler: `Sampler`.
        stage: int. Index of the stage.
        num_changing: optional int, see `refreshing_prediction`: then the first step is
            one of all tokens, and the others are of so many. Defaults to `None`: all
            tokens in all steps.
        **options: tensors in place of the sampler's numbers, see
            `keras_muse.decoding.decode`; and the `critic` of that.

    Returns:
        (B, N) int32.
    """
    first = None
    if num_changing is not None:
        first = refreshing_prediction(transformer, memory, guided, num_changing)
    return decode(
        guided_prediction(transformer, memory, guided, sampler.always_guided),
        image_ids,
        seeds,
        sampler,
        transformer.mask_id,
        stage=stage,
        grid=transformer.grid_size,
        first=first,
        **options,
    )

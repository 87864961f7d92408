"""What a stage computes, as pure functions of tensors: tasks and exports compile them.

Text is a list of one or two dicts of `text_embeddings` and `padding_mask`: the prompts,
and what guidance leads away from.
"""

from keras import ops, tree

from keras_muse.decoding import decode
from keras_muse.image_tokenizer import downscale

__all__ = [
    "critic_of",
    "filled",
    "guided_prediction",
    "is_guided",
    "judgement",
    "pass_inputs",
    "pixels_of",
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
        hidden = transformer.features(ops.concatenate([ids, ids]), memory)
        cond, uncond = ops.split(ops.cast(hidden, "float32"), 2)
        guidance = guidance[:, None, None]
        mixed = uncond + guidance * (cond - uncond)
        # Rounded, the sum is not what it is without guidance.
        return ops.where(guidance == 1.0, cond, mixed)

    def predict(ids, guidance):
        if not guided:
            return transformer.head(transformer.features(ids, memory))
        if always:
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


def filled(transformer, memory, guided, image_ids, seeds, sampler, stage, **options):
    """Tokens of a stage without masked ones.

    Args:
        transformer: that of the stage.
        memory: what its `project_memory` made of `pass_inputs`.
        guided: bool. Whether the memory is that of two passes.
        image_ids: (B, N) int32.
        seeds: (B,) int32.
        sampler: `Sampler`.
        stage: int. Index of the stage.
        **options: tensors in place of the sampler's numbers, see
            `keras_muse.decoding.decode`; and the `critic` of that.

    Returns:
        (B, N) int32.
    """
    return decode(
        guided_prediction(transformer, memory, guided, sampler.always_guided),
        image_ids,
        seeds,
        sampler,
        transformer.mask_id,
        stage=stage,
        grid=transformer.grid_size,
        **options,
    )

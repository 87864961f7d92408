"""A pass through the transformer of some tokens, the others as they were seen before.

While tokens are filled, most of a picture does not change from one step to the next.
What self-attention sees of the tokens that do not, their keys and values, is kept from
an earlier pass (ReCAP, arXiv 2505.19089). It would be a little different now, as they
see what has been filled since then: this is an approximation.
"""

from keras import ops

from keras_muse.transformer.base import embed, memory_of

__all__ = ["full_pass", "partial_pass"]


def full_pass(transformer, image_ids, memory):
    """`TokenPredictor.features`, and what self-attention saw of each layer.

    Args:
        transformer: `TokenPredictor` whose self-attention is of all tokens.
        image_ids: (B, N) int32 in `[0, V]`.
        memory: result of `project_memory`.

    Returns:
        (B, N, D), and a list of keys and values, both (B, N, heads, D / heads).
    """
    x, seen = embed(transformer, image_ids), []
    for i, block in enumerate(transformer.blocks):
        x, own = block.pass_on(x, None, *memory_of(memory, i))
        seen.append(own)
    return transformer.head_norm(transformer.head_dense(x)), seen


def partial_pass(transformer, image_ids, memory, seen, positions, changing):
    """The last hidden state of some tokens.

    Args:
        transformer: as of `full_pass`.
        image_ids: (B, N) int32 in `[0, V]`.
        memory: result of `project_memory`.
        seen: what `full_pass` returned.
        positions: (B, K) int32 in `[0, N)`, distinct within a row; all that are
            changing, and others where a row has fewer.
        changing: (B, N) bool. Tokens that are seen as they are now and not as in
            `seen`.

    Returns:
        (B, K, D). Where a token is not changing, it means nothing.
    """
    x = ops.take_along_axis(embed(transformer, image_ids), positions[..., None], axis=1)
    # Of each token one is seen, whatever the number of positions.
    new = ops.where(ops.take_along_axis(changing, positions, axis=1), 0.0, -1e9)
    old = ops.where(changing, -1e9, 0.0)
    bias = ops.concatenate([new, old], axis=1)
    for i, block in enumerate(transformer.blocks):
        others = (*seen[i], bias[:, None, None, :])
        x, _ = block.pass_on(x, others, *memory_of(memory, i))
    return transformer.head_norm(transformer.head_dense(x))

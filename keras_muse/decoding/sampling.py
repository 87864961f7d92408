"""One image token from each row of logits, with one uniform number each."""

import math

import keras
from keras import ops

__all__ = [
    "filter_logits",
    "log_probability",
    "sample_scored",
    "sample_together",
    "sample_tokens",
]

# Halvings of an interval of logits: the threshold is then exact to float32.
_BISECTIONS = 30
_MINUS_INFINITY = -1e9
# What stands for probability 1 in whole numbers, exact in float32.
_ONE = 1 << 24


def filter_logits(logits, temperature=1.0, top_k=None, top_p=None, epsilon_cutoff=0.0):
    """Applies temperature, then top-k, then top-p, then the epsilon cutoff.

    Thresholds are found by bisection, but for top-k on PyTorch: sorting 8192 logits
    for every token costs as much as the transformer does on a CPU.

    Args:
        logits: (B, N, V) float32.
        temperature: float or () float32, at least 0. 0 keeps the most likely token
            (more if they tie).
        top_k: optional int. Keeps the k most likely tokens (more if they tie).
        top_p: optional float in (0, 1]. Keeps the fewest most likely tokens whose
            probabilities sum to at least p (more if they tie).
        epsilon_cutoff: float in [0, 1). Leaves out tokens whose probability is below
            it, but never the most likely one (arXiv 2210.15191).

    Returns:
        (B, N, V) float32, shifted so that its maximum is 0, -1e9 where a token is
        left out.
    """
    logits = ops.cast(logits, "float32")
    logits = logits - ops.max(logits, axis=-1, keepdims=True)
    # So small that temperature 0 separates even neighbouring float32 numbers.
    logits = logits / ops.maximum(ops.cast(temperature, "float32"), 1e-30)
    logits = ops.maximum(logits, _MINUS_INFINITY)
    if top_k is not None and top_k < logits.shape[-1]:
        logits = _keep_largest(logits, top_k)
    if top_p is not None and top_p < 1.0:
        weights = ops.softmax(logits, axis=-1)
        logits = _keep_heaviest(logits, weights, float(top_p))
    if epsilon_cutoff > 0.0:
        weights = ops.exp(logits)
        least = epsilon_cutoff * ops.sum(weights, axis=-1, keepdims=True)
        # The most likely token has the weight 1.
        least = ops.minimum(least, 1.0)
        logits = ops.where(weights >= least, logits, _MINUS_INFINITY)
    return logits


def _keep_largest(logits, count):
    """Keeps the `count` largest logits, and what equals the last of them."""
    if keras.config.backend() == "torch":
        # It selects them. XLA sorts all, which takes longer than the bisection.
        least = ops.top_k(logits, count)[0][..., -1:]
        return ops.where(logits >= least, logits, _MINUS_INFINITY)
    return _keep_heaviest(logits, None, float(count))


def _keep_heaviest(logits, weights, target):
    """Keeps the top logits whose weights (1 for `None`) sum to at least `target`."""

    def mass(least):
        above = ops.cast(logits >= least, "float32")
        # A product with ones costs half of a pass where nothing is fused.
        above = above if weights is None else weights * above
        return ops.sum(above, axis=-1, keepdims=True)

    # Nothing below exp(-60) matters; a bounded interval makes the bisection exact.
    low = ops.full_like(logits[..., :1], -60.0)
    high = ops.zeros_like(low)
    kept = mass(low)
    low = ops.where(kept >= target, low, ops.full_like(low, _MINUS_INFINITY))

    def is_open(low, high, kept):
        # A row that keeps exactly its target keeps the same from then on: most counts
        # are found in 20 halvings of 30.
        return ops.any(kept != target)

    def halve(low, high, kept):
        middle = 0.5 * (low + high)
        heavier = mass(middle)
        enough = heavier >= target
        low, kept = ops.where(enough, middle, low), ops.where(enough, heavier, kept)
        return low, ops.where(enough, high, middle), kept

    low, _, _ = ops.while_loop(
        is_open, halve, (low, high, kept), maximum_iterations=_BISECTIONS
    )
    return ops.where(logits >= low, logits, _MINUS_INFINITY)


def sample_tokens(logits, noise):
    """Draws tokens by inverse CDF, in two levels.

    First the block of about sqrt(V) tokens in which the cumulative probability passes
    the noise, then the token within it: two short sums where one over the codebook,
    or Gumbel noise over it, would cost a tenth of the decoding.

    Args:
        logits: (B, N, V) float32, not normalised.
        noise: (B, N) float32 in (0, 1).

    Returns:
        (B, N) int32 in `[0, V)`, never a token of probability 0.
    """
    return sample_scored(logits, noise)[0]


def sample_scored(logits, noise):
    """Draws tokens like `sample_tokens`, and says how likely each was.

    Its sums are those of the draw: `log_probability` of the tokens costs as much as
    the draw does.

    Args:
        logits: (B, N, V) float32, not normalised.
        noise: (B, N) float32 in (0, 1).

    Returns:
        (B, N) int32 in `[0, V)` and (B, N) float32, their log-probabilities.
    """
    codebook_size = logits.shape[-1]
    width = _block_width(codebook_size)
    num_blocks = -(-codebook_size // width)
    weights = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    padding = num_blocks * width - codebook_size
    if padding:
        weights = ops.pad(weights, ((0, 0), (0, 0), (0, padding)))
    shape = ops.shape(logits)
    weights = ops.reshape(weights, (shape[0], shape[1], num_blocks, width))

    masses = ops.sum(weights, axis=-1)
    mass = ops.sum(masses, axis=-1)
    target = noise * mass
    block, before = _search(masses, target)
    inside = ops.take_along_axis(weights, block[..., None, None], axis=2)[..., 0, :]
    token, _ = _search(inside, target - before)
    weight = ops.take_along_axis(inside, token[..., None], axis=-1)[..., 0]
    return block * width + token, ops.log(weight) - ops.log(mass)


def _block_width(codebook_size):
    """About its root, and a divisor if there is one: the last block is whole then."""
    root = math.isqrt(codebook_size - 1) + 1
    widths = range(root, 2 * root)
    return next((w for w in widths if codebook_size % w == 0), root)


def sample_together(logits, noise, chosen, ranks):
    """Draws the tokens of one step by systematic sampling, so that they fit together.

    Drawn apart, two tokens may both become the one object of a picture, or none. Here
    every token still has its own distribution, but what happens in a row happens
    evenly (systematic sampling, Madow and Madow 1944): each token is its most likely
    one or *another*, with the probability q of another; the q are laid end to end,
    and the tokens at U, U + 1, U + 2, ... are others, U uniform. Whatever subset lies
    in one piece then has its expected number of others, give or take one. Tokens whose
    most likely other is the same lie in one piece.

    Args:
        logits: (B, N, V) float32, of `filter_logits`.
        noise: (B, 1) float32 in (0, 1). U.
        chosen: (B, N) bool. The tokens that are drawn; the others count nothing.
        ranks: (B, N) int32, distinct within a row. Orders the tokens of a piece.

    Returns:
        (B, N) int32 in `[0, V)`. Where `chosen` is false it means nothing.
    """
    num_tokens, codebook_size = logits.shape[1:]
    mode = ops.cast(ops.argmax(logits, axis=-1), "int32")
    tokens = ops.arange(codebook_size, dtype="int32")
    others = ops.where(tokens == mode[..., None], _MINUS_INFINITY, logits)
    # The maximum is 0: the weight of the most likely token is 1.
    weight = ops.sum(ops.exp(others), axis=-1)
    probability = ops.where(chosen, weight / (1.0 + weight), 0.0)

    # Whole numbers: their sum modulo 1 is exact, in any order and on every backend.
    share = ops.cast(ops.round(probability * _ONE), "int32")
    pieces = max((2**31 - 1) // num_tokens - 1, 1)
    piece = ops.cast(ops.argmax(others, axis=-1), "int32") % pieces
    line = ops.argsort(piece * num_tokens + ranks, axis=1)
    ends = ops.cumsum(ops.take_along_axis(share, line, axis=1), axis=1)
    ends = ops.take_along_axis(ends, ops.argsort(line, axis=1), axis=1)
    start = ops.cast(noise * _ONE, "int32")
    # How far a token reaches beyond the last U + k before its end.
    reach = ops.bitwise_and(ops.cast(ends, "int32") - start, _ONE - 1)
    is_other = reach < share
    # Within that probability it is uniform once more, which draws among the others.
    within = ops.cast(reach, "float32") + 0.5
    within = within / ops.cast(ops.maximum(share, 1), "float32")
    return ops.where(is_other, sample_tokens(others, within), mode)


def _search(weights, target):
    """The first index whose cumulative weight passes `target`, and the sum before it.

    Rounding may leave the target at or above the whole sum; the last index with a
    weight is taken then.
    """
    sums = ops.cumsum(weights, axis=-1)
    positions = ops.arange(weights.shape[-1], dtype="int32")
    # Asked of the weight too: a parallel sum may rise where nothing was added.
    last = ops.max(ops.where(weights > 0, positions, 0), axis=-1)
    passes = ops.logical_and(weights > 0, sums > target[..., None])
    index = ops.min(ops.where(passes, positions, last[..., None]), axis=-1)
    before = ops.take_along_axis(sums - weights, index[..., None], axis=-1)[..., 0]
    return index, before


def log_probability(logits, tokens):
    """Log-probability of tokens, in float32.

    Args:
        logits: (B, N, V) float32, not normalised.
        tokens: (B, N) int32.

    Returns:
        (B, N) float32.
    """
    logits = ops.cast(logits, "float32")
    chosen = ops.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - ops.logsumexp(logits, axis=-1)

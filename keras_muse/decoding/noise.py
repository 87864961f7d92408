"""Counter-based noise: a hash of (seed, stage, step, stream, position).

Nothing here has a state. The noise of a token depends on the seed of its own row and
on where it stands, so a picture does not depend on its batch mates, and 32-bit integer
arithmetic is the same on every backend, so neither does it depend on the backend.
"""

import numpy as np
from keras import ops

__all__ = ["gumbel", "seeds_of", "uniform"]


def _signed(value):
    """The int32 with the bits of a 32-bit constant."""
    return value - (1 << 32) if value >= 1 << 31 else value


# "triple32" of Chris Wellons' hash prospector, the least biased known 32-bit integer
# permutation of its kind: avalanche bias 0.0208 of a possible 1000.
_MULTIPLIERS = tuple(map(_signed, (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)))
_SHIFTS = (17, 11, 15, 14)
_GOLDEN = _signed(0x9E3779B9)


def _shift_right(x, bits, library=ops):
    """Logical shift of int32, which is shifted arithmetically."""
    return library.bitwise_and(library.right_shift(x, bits), (1 << (32 - bits)) - 1)


def _mix(x, library=ops):
    for bits, multiplier in zip(_SHIFTS, _MULTIPLIERS):
        x = library.bitwise_xor(x, _shift_right(x, bits, library)) * multiplier
    return library.bitwise_xor(x, _shift_right(x, _SHIFTS[-1], library))


def _fold(state, number):
    """Folds one more counter into a hash state.

    What is known before the program runs is hashed by NumPy: three of four counters
    are, and their operations would be traced and compiled in every program.
    """
    if isinstance(number, (int, np.ndarray)):
        # An array, whose integers overflow without a word.
        mixed = _mix(np.array(number, "int32", ndmin=1) + _GOLDEN, np)
    else:
        mixed = _mix(ops.cast(number, "int32") + _GOLDEN)
    return _mix(ops.bitwise_xor(state, mixed) + _GOLDEN)


def uniform(seeds, stage, step, stream, num_positions):
    """Uniform noise, one number a position.

    Args:
        seeds: (B,) int32. One seed a row, every int32 is a seed.
        stage: int. Index of the stage.
        step: int or () int32 tensor. Index of the decoding step.
        stream: int. Which of the independent noises of that step.
        num_positions: int. N.

    Returns:
        (B, N) float32 strictly between 0 and 1: (k + 1/2) / 2^23 of a random integer k.
    """
    row = ops.cast(seeds, "int32")
    for number in (stage, step, stream):
        row = _fold(row, number)
    positions = np.arange(num_positions, dtype="int32")
    # 23 bits, since k + 1/2 is then exact in float32 and the result never 1.
    bits = _shift_right(_fold(row[:, None], positions[None, :]), 9)
    return (ops.cast(bits, "float32") + 0.5) * 2.0**-23


def gumbel(seeds, stage, step, stream, num_positions):
    """Gumbel(0, 1) noise; arguments and shape as of `uniform`."""
    noise = uniform(seeds, stage, step, stream, num_positions)
    return -ops.log(-ops.log(noise))


def seeds_of(seeds, number):
    """Other seeds from seeds, such as those of one of several windows of a picture.

    Args:
        seeds: (B,) int32.
        number: int. Which of them.

    Returns:
        (B,) int32.
    """
    return _fold(ops.cast(seeds, "int32"), number)

"""Parallel decoding once more: numpy, float64, loops, nothing clever."""

import math

import numpy as np

__all__ = [
    "contradiction",
    "decode",
    "draw",
    "draw_together",
    "edge_distance",
    "filter_logits",
    "fold",
    "grow",
    "guidance_at",
    "halton_ranks",
    "log_softmax",
    "lowest",
    "num_masked_after",
    "resample",
    "uniform",
]

SHARES = {
    "cosine": lambda done: math.cos(math.pi / 2 * done),
    "linear": lambda done: 1 - done,
    "square": lambda done: 1 - done**2,
    "cubic": lambda done: 1 - done**3,
}


def mix(x):
    """The "triple32" permutation of a uint32."""
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 14)


def fold(state, number):
    """One more counter into the state; both ints in [0, 2^32)."""
    return mix(((state ^ mix((number + 0x9E3779B9) % 2**32)) + 0x9E3779B9) % 2**32)


def uniform(seeds, stage, step, stream, num_positions):
    """(B, N) float64."""
    rows = []
    for seed in seeds:
        state = int(seed) % 2**32
        for number in (stage, step, stream):
            state = fold(state, number % 2**32)
        bits = [fold(state, position) >> 9 for position in range(num_positions)]
        rows.append([(k + 0.5) / 2**23 for k in bits])
    return np.array(rows)


def num_masked_after(step, num_steps, num_start, num_unknown, schedule="cosine"):
    """One row: ints to an int, the formula of MaskGIT."""
    if step + 1 >= num_steps or num_unknown == 0:
        return 0
    count = math.floor(num_start * SHARES[schedule]((step + 1) / num_steps) + 1e-3)
    return max(1, min(num_unknown - 1, count))


def guidance_at(step, num_steps, guidance_scale, schedule, interval=(0, 1)):
    """The scale of a step: 1 at the first, s at the last, or always s."""
    # Exact for the shares of the tests, which are hundredths.
    low, high = (round(100 * share) * num_steps for share in interval)
    if not low <= 100 * step < high and interval != (0, 1):
        return 1
    if schedule == "constant" or num_steps == 1:
        return guidance_scale
    return 1 + (guidance_scale - 1) * step / (num_steps - 1)


def log_softmax(logits):
    """(V,) float64 to (V,) float64."""
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def filter_logits(logits, temperature=1.0, top_k=None, top_p=None, epsilon_cutoff=0.0):
    """Probabilities (V,) of one token, by sorting."""
    logits = np.asarray(logits, "float64")
    if temperature == 0:
        probabilities = (logits == logits.max()).astype("float64")
    else:
        probabilities = np.exp(log_softmax(logits / temperature))
    order = np.argsort(-probabilities, kind="stable")
    if top_k is not None:
        probabilities[order[top_k:]] = 0
        probabilities /= probabilities.sum()
    if top_p is not None:
        sums = np.cumsum(probabilities[order])
        enough = np.argmax(sums >= top_p - 1e-12) + 1
        probabilities[order[enough:]] = 0
        probabilities /= probabilities.sum()
    is_likely = probabilities >= epsilon_cutoff
    is_likely[order[0]] = True
    probabilities = np.where(is_likely, probabilities, 0)
    return probabilities / probabilities.sum()


def draw(probabilities, noise):
    """The first token whose cumulative probability passes the noise."""
    sums = np.cumsum(probabilities)
    return int(np.searchsorted(sums, noise * sums[-1], side="right"))


def mirrored(index, base):
    """The digits of an int behind the point, in reverse."""
    value, place = 0.0, 1.0
    while index:
        place /= base
        value += index % base * place
        index //= base
    return value


def halton_ranks(rows, columns):
    """When each cell is first visited, cell by cell: a list of N ints."""
    visited, index = [], 1
    while len(visited) < rows * columns:
        y, x = int(mirrored(index, 2) * rows), int(mirrored(index, 3) * columns)
        if y * columns + x not in visited:
            visited.append(y * columns + x)
        index += 1
    return [visited.index(cell) for cell in range(rows * columns)]


def turns(sampler, noise, masked, grid):
    """One row: N floats, masked positions; {position: the larger the sooner}."""
    rows, columns = grid or (1, len(noise))
    if sampler.order == "halton":
        down, right = int(noise[0] * rows), int(noise[-1] * columns)
        ranks = halton_ranks(rows, columns)
        return {
            i: -ranks[
                (i // columns + down) % rows * columns + (i % columns + right) % columns
            ]
            for i in masked
        }

    def near(i):
        return [
            j
            for j in masked
            if abs(i // columns - j // columns) <= sampler.spacing
            and abs(i % columns - j % columns) <= sampler.spacing
        ]

    return {
        i: noise[i]
        + (sampler.spacing > 0 and noise[i] == max(noise[j] for j in near(i)))
        for i in masked
    }


def draw_together(probabilities, start, ranks):
    """Systematic sampling: {position: (V,)} and ranks to {position: token}."""
    one = 2**24
    modes, others = {}, {}
    for position, row in probabilities.items():
        modes[position] = int(np.argmax(row))
        others[position] = np.where(np.arange(len(row)) == modes[position], 0, row)
    # On a tie of zeros: the first that is not the mode, as the library has it.
    alternative = {
        position: int(np.argmax(np.where(np.arange(len(row)) == modes[position],
                                         -1, row)))
        for position, row in probabilities.items()
    }  # fmt: skip
    line = sorted(probabilities, key=lambda i: (alternative[i], ranks[i]))
    begin, tokens = 0, {}
    for position in line:
        share = int(np.round(one * others[position].sum()))
        # Is there a whole number k with U + k in (begin, begin + share]?
        start_units = int(start * one)
        k = (begin + share - start_units) // one
        mark = start_units + k * one
        tokens[position] = modes[position]
        if mark > begin:
            within = (begin + share - mark + 0.5) / share
            tokens[position] = draw(others[position], within)
        begin += share
    return tokens


def decode(
    predict,
    image_ids,
    seeds,
    sampler,
    mask_id,
    guidance_scale=None,
    stage=0,
    grid=None,
    num_steps=None,
    critic=None,
):
    """(B, N) ids in and out; `predict(ids, guidance)` in numpy, for one row each."""
    rows = []
    for row, ids in enumerate(np.array(image_ids)):
        scale = sampler.guidance_scale if guidance_scale is None else guidance_scale
        scale = scale[row] if np.ndim(scale) else scale
        last = sampler.num_steps if num_steps is None else num_steps
        last = int(last[row]) if np.ndim(last) else last
        fillable = np.flatnonzero(ids == mask_id)
        for step in range(last):
            ids = decode_step(
                predict,
                ids,
                seeds[row],
                sampler,
                mask_id,
                scale,
                stage,
                step,
                last,
                fillable,
                grid,
                critic,
            )
        rows.append(ids)
    return np.array(rows)


def decode_step(
    predict,
    ids,
    seed,
    sampler,
    mask_id,
    scale,
    stage,
    step,
    num_steps,
    fillable,
    grid,
    critic,
):
    """One step of one row: (N,) ids to (N,) ids."""
    guidance = guidance_at(
        step, num_steps, scale, sampler.guidance_schedule, sampler.guidance_interval
    )
    logits = np.asarray(predict(ids[None], np.array([guidance], "float32")))[0]
    masked = [i for i in range(len(ids)) if ids[i] == mask_id]
    probabilities = {
        i: filter_logits(
            logits[i],
            sampler.temperature,
            sampler.top_k,
            sampler.top_p,
            sampler.epsilon_cutoff,
        )
        for i in masked
    }
    token_noise = uniform([seed], stage, step, 0, len(ids))[0]
    drawn = {i: draw(probabilities[i], token_noise[i]) for i in masked}
    choice_noise = uniform([seed], stage, step, 1, len(ids))[0]
    tau = sampler.choice_temperature * (1 - (step + 1) / num_steps)
    gumbel = [-tau * math.log(-math.log(noise)) for noise in choice_noise]
    if sampler.order == "critic":
        result = ids.copy()
        for i in masked:
            result[i] = drawn[i]
        logits = np.asarray(critic(result[None]), "float64")[0]
        trust = -np.log1p(np.exp(-logits)) + gumbel
        remain = num_masked_after(
            step, num_steps, len(fillable), len(fillable), sampler.mask_schedule
        )
        result[sorted(fillable, key=lambda i: trust[i])[:remain]] = mask_id
        return result
    if sampler.order == "confidence":
        score = {i: log_softmax(logits[i])[drawn[i]] + gumbel[i] for i in masked}
    else:
        order_step = 0 if sampler.order == "halton" else step
        order_noise = uniform([seed], stage, order_step, 3, len(ids))[0]
        score = turns(sampler, list(order_noise), masked, grid)
    remain = num_masked_after(
        step, num_steps, len(fillable), len(masked), sampler.mask_schedule
    )
    filled = [i for i in fillable if ids[i] != mask_id]
    again_noise = uniform([seed], stage, step, 6, len(ids))[0]
    num_again = min(math.floor(sampler.remask_rate * len(filled) + 1e-3), remain)
    again = sorted(filled, key=lambda i: again_noise[i])[:num_again]
    remain -= num_again
    kept = sorted(masked, key=score.get)[remain:]
    if sampler.draw == "systematic":
        start = uniform([seed], stage, step, 2, 1)[0, 0]
        drawn = draw_together({i: probabilities[i] for i in kept}, start, score)
    result = ids.copy()
    result[again] = mask_id
    for i in kept:
        result[i] = drawn[i]
    return result


def lowest(noise, rate):
    """Positions of the smallest noise of one row, `rate` of all, at least one."""
    # In float32, as it is asked for: where the product is a half, digits decide.
    count = max(1, round(float(np.float32(rate) * np.float32(len(noise)))))
    return sorted(range(len(noise)), key=lambda i: noise[i])[:count]


def resample(
    predict,
    image_ids,
    seeds,
    resampler,
    mask_id,
    steps,
    guidance_scale=None,
    mask_rate=None,
    stage=0,
):
    """(B, N) ids in and out; `steps` are those that are run, such as `range(2, 5)`."""
    rows = []
    for row, ids in enumerate(np.array(image_ids)):
        scale = resampler.guidance_scale if guidance_scale is None else guidance_scale
        scale = scale[row] if np.ndim(scale) else scale
        rate = resampler.mask_rate if mask_rate is None else mask_rate
        rate = rate[row] if np.ndim(rate) else rate
        for step in steps:
            which, token = (
                uniform([seeds[row]], stage, step, stream, len(ids))[0]
                for stream in (4, 5)
            )
            masked = lowest(which, rate)
            seen = ids.copy()
            seen[masked] = mask_id
            logits = predict(seen[None], np.array([scale], "float32"))[0]
            for i in masked:
                probabilities = filter_logits(
                    logits[i], resampler.temperature, resampler.top_k
                )
                ids[i] = draw(probabilities, token[i])
        rows.append(ids)
    return np.array(rows)


def contradiction(predict, image_ids, seeds, mask_id, num_rounds, stage=0):
    """(B, N) float64: the mean over rounds, each of two looks at half the tokens."""
    scores = np.zeros(np.shape(image_ids))
    for row, ids in enumerate(np.array(image_ids)):
        for number in range(num_rounds):
            half = lowest(
                uniform([seeds[row]], stage, -1 - number, 7, len(ids))[0], 0.5
            )
            for masked in (half, [i for i in range(len(ids)) if i not in half]):
                seen = ids.copy()
                seen[masked] = mask_id
                without, with_it = (
                    predict(seen[None], np.array([guidance], "float32"))[0]
                    for guidance in (0, 1)
                )
                for i in masked:
                    scores[row, i] += (
                        log_softmax(without[i])[ids[i]]
                        - log_softmax(with_it[i])[ids[i]]
                    ) / num_rounds
    return scores


def edge_distance(mask):
    """(H, W): rows or columns to the nearest pixel that is false, or infinity."""
    height, width = mask.shape
    distance = np.full(mask.shape, np.inf)
    for y, x in np.ndindex(height, width):
        for v, u in np.ndindex(height, width):
            if not mask[v, u]:
                distance[y, x] = min(distance[y, x], max(abs(y - v), abs(x - u)))
    return distance


def grow(mask, pixels):
    """(H, W) bool: is any pixel of the square around it true?"""
    result = np.zeros(mask.shape, bool)
    for y, x in np.ndindex(mask.shape):
        rows = slice(max(y - pixels, 0), y + pixels + 1)
        columns = slice(max(x - pixels, 0), x + pixels + 1)
        result[y, x] = mask[rows, columns].any()
    return result

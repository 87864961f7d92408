"""Parallel decoding: masked tokens filled in a few steps."""

import dataclasses

from keras import ops

from keras_muse.decoding.checks import Settings, check_floats, check_ints
from keras_muse.decoding.noise import gumbel, uniform
from keras_muse.decoding.order import ORDERS, halton_turns, random_turns
from keras_muse.decoding.sampling import (
    filter_logits,
    log_probability,
    sample_scored,
    sample_together,
)
from keras_muse.decoding.schedules import (
    GUIDANCE_SCHEDULES,
    MASK_SCHEDULES,
    guidance_at,
    num_masked_after,
)
from keras_muse.layers import register

__all__ = ["Sampler", "decode"]

DRAWS = ("independent", "systematic")
# Orders that look at what was drawn.
_AFTER_THE_DRAW = ("confidence", "critic")
# Streams of noise within a step.
_TOKEN, _CONFIDENCE, _TOGETHER, _ORDER, _REMASK = 0, 1, 2, 3, 6


@register
@dataclasses.dataclass(frozen=True)
class Sampler(Settings):
    """The settings of parallel decoding; a preset stores them.

    Args:
        num_steps: int, at least 1. Defaults to 12.
        guidance_scale: float, at least 0. s of `uncond + s (cond - uncond)`: 1 is no
            guidance and costs no second pass. The paper's t is s - 1. Defaults to 1.
        guidance_schedule: `"linear"` (from 1 at the first step to s at the last, Muse
            section 2.7) or `"constant"`. Defaults to `"linear"`.
        temperature: float, at least 0. Of the token; 0 takes the most likely one.
            Defaults to 1.
        top_k: optional int, at least 1. Defaults to `None`.
        top_p: optional float in (0, 1]. Defaults to `None`.
        choice_temperature: float, at least 0. Gumbel noise on the confidence, or on
            what the critic says, falling to 0 at the last step (MaskGIT). Defaults to
            4.5.
        mask_schedule: `"cosine"`, `"linear"`, `"square"` or `"cubic"`. Defaults to
            `"cosine"`.
        order: `"confidence"` reveals the most confident tokens first; `"random"` does
            not look at them, nor does `"halton"`, which reveals tokens together that
            lie far apart (arXiv 2503.17076). These two do not use
            `choice_temperature`. `"critic"` draws all masked tokens, and masks those
            again that a critic trusts least of all that were masked at the start,
            drawn now or before (Token-Critic, arXiv 2209.04439): each step but the
            last costs a pass of the critic. Defaults to `"confidence"`, the paper's.
        spacing: int, at least 0. In random order, first come tokens that lie more than
            `spacing` rows or columns apart, so that none is drawn without knowing its
            neighbours; a step that reveals more than there are of these fills up with
            any. Defaults to 0.
        draw: `"independent"`, each token of a step by itself, or `"systematic"`, so
            that as many of them differ from the most likely as are expected to, see
            `sample_together`: what is there once in a picture is then not drawn twice
            in a step. Not with the orders `"confidence"` and `"critic"`, which have to
            see the draw before they know which tokens stay. Defaults to
            `"independent"`.
        epsilon_cutoff: float in [0, 1). Tokens of a smaller probability are never drawn
            (arXiv 2210.15191): what is left of the others stays in proportion, which a
            temperature below 1 changes. Defaults to 0.
        guidance_interval: (float, float), 0 <= low < high <= 1. Step i of T is guided
            where i / T lies in it, the end left out; the others cost no second pass.
            Defaults to `(0, 1)`: every step.
        remask_rate: float in [0, 1). Share of the tokens filled so far that each step
            masks again, at random, to be drawn anew later; as many more are filled in
            their place (ReMDM-cap, arXiv 2503.00307). Not with the order `"critic"`,
            which has a better choice of them. Defaults to 0.
        refresh_every: int, at least 1. All tokens pass through the transformer at the
            first of so many steps. At the others, those that were known at the first
            are seen as they were then (ReCAP, arXiv 2505.19089): faster, and another
            picture. Not with a `remask_rate` or the order `"critic"`, which change
            known tokens. Defaults to 1.

    Raises:
        ValueError: if an argument is outside its range.
    """

    num_steps: int = 12
    guidance_scale: float = 1.0
    guidance_schedule: str = "linear"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    choice_temperature: float = 4.5
    mask_schedule: str = "cosine"
    order: str = "confidence"
    spacing: int = 0
    draw: str = "independent"
    epsilon_cutoff: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    remask_rate: float = 0.0
    refresh_every: int = 1

    def __post_init__(self):
        """Refuses settings out of range."""
        least = {"num_steps": 1, "top_k": 1, "spacing": 0, "refresh_every": 1}
        check_ints(self, least, optional=("top_k",))
        names = "guidance_scale temperature choice_temperature epsilon_cutoff"
        check_floats(self, [*names.split(), "remask_rate"])
        for name in ("epsilon_cutoff", "remask_rate"):
            if getattr(self, name) >= 1.0:
                raise ValueError(
                    f"`{name}` must be below 1: received {name}="
                    f"{getattr(self, name)!r}."
                )
        # A preset's JSON has a list.
        interval = _as_interval(self.guidance_interval)
        object.__setattr__(self, "guidance_interval", interval)
        number = isinstance(self.top_p, (int, float)) and self.top_p is not True
        if self.top_p is not None and not (number and 0.0 < self.top_p <= 1.0):
            raise ValueError(
                f"`top_p` must lie in (0, 1]: received top_p={self.top_p!r}."
            )
        for name, known in (
            ("guidance_schedule", GUIDANCE_SCHEDULES),
            ("mask_schedule", MASK_SCHEDULES),
            ("order", ORDERS),
            ("draw", DRAWS),
        ):
            if getattr(self, name) not in list(known):
                raise ValueError(
                    f"`{name}` must be one of {sorted(known)}: received "
                    f"{name}={getattr(self, name)!r}."
                )
        if self.spacing and self.order != "random":
            raise ValueError(
                "`spacing` must be 0 but in the order 'random': received "
                f"spacing={self.spacing}, order={self.order!r}."
            )
        if self.refresh_every > 1 and (self.remask_rate or self.order == "critic"):
            raise ValueError(
                "`refresh_every` must be 1 with a `remask_rate` or the order 'critic', "
                f"which change known tokens: received refresh_every="
                f"{self.refresh_every}, remask_rate={self.remask_rate}, "
                f"order={self.order!r}."
            )
        if self.draw == "systematic" and self.order in _AFTER_THE_DRAW:
            raise ValueError(
                f"`draw` must be 'independent' with the order {self.order!r}: received "
                f"draw='systematic', order={self.order!r}."
            )
        if self.remask_rate and self.order == "critic":
            raise ValueError(
                "`remask_rate` must be 0 with the order 'critic': received "
                f"remask_rate={self.remask_rate}, order='critic'."
            )

    def get_config(self):
        # As JSON gives it back.
        interval = list(self.guidance_interval)
        return {**super().get_config(), "guidance_interval": interval}

    @property
    def always_guided(self):
        """Whether no step has the guidance 1 that a scale other than 1 has."""
        return self.guidance_schedule == "constant" and self.guidance_interval == (
            0.0,
            1.0,
        )

    @property
    def changes_probabilities(self):
        """Whether tokens may be drawn with other probabilities than the model's."""
        return (
            self.temperature != 1.0
            or self.top_k is not None
            or self.top_p not in (None, 1.0)
            or self.epsilon_cutoff > 0.0
        )


def decode(
    predict,
    image_ids,
    seeds,
    sampler,
    mask_id,
    start=0,
    stop=None,
    fillable=None,
    num_steps=None,
    guidance_scale=None,
    stage=0,
    grid=None,
    first=None,
    critic=None,
):
    """Fills the masked tokens of a batch.

    Steps i = 0 .. T-1 (MaskGIT, arXiv 2202.04200, section 3.2; Muse, section 2.8):
    predict all tokens at once, draw each masked one, keep the most confident, mask
    the others again. Confidence is the log-probability of what was drawn plus
    annealed Gumbel noise. In another order those are kept whose turn it is, or, of all
    tokens that were filled so far, those that a critic trusts most. Known tokens never
    change, and the last step keeps all.

    Args:
        predict: function. `predict(image_ids, guidance)` with ids (B, N) int32 and
            the guidance of the step (B,) float32 returns (B, N, V) logits.
        image_ids: (B, N) int32, `mask_id` where a token is to be filled.
        seeds: (B,) int32. One a row.
        sampler: `Sampler`. Its schedules and filters are used; the numbers below
            replace its own, so that they can be tensors of a compiled function.
        mask_id: int. The id of a masked token; larger than every token.
        start: () int32. First step to run, so that a caller can look at the tokens
            between steps. Defaults to 0.
        stop: () int32. The step not to run any more. Defaults to the largest of
            `num_steps`.
        fillable: (B, N) bool. The tokens masked before step 0. Defaults to those
            masked in `image_ids`; to be given with `start`.
        num_steps: () int32, or (B,) where rows have more or less to fill. T, at
            least 1 for a row with masked tokens; one that is through waits for the
            others. Defaults to `sampler.num_steps`.
        guidance_scale: (B,) float32. Defaults to `sampler.guidance_scale`.
        stage: int. Index of the stage, which has its own noise. Defaults to 0.
        grid: (rows, columns) of the tokens; to be given with the order `"halton"` or
            a `spacing`.
        first: optional function like `predict` for the step `start`. It returns the
            logits and the function that is `predict` in the steps after it.
        critic: function, to be given with the order `"critic"`. `critic(image_ids)`
            with filled ids (B, N) int32 returns (B, N) logits, the larger the more a
            token is trusted.

    Returns:
        (B, N) int32. After the last step no `mask_id` is left.

    Raises:
        ValueError: if `start` is an int above 0 and there is no `fillable`, or the
            order needs a `grid` or a `critic` that is not there.
    """
    num_tokens = image_ids.shape[1]
    num_steps = sampler.num_steps if num_steps is None else num_steps
    num_steps = ops.convert_to_tensor(num_steps, "int32")
    stop = ops.max(num_steps) if stop is None else stop
    if guidance_scale is None:
        guidance_scale = ops.full(ops.shape(seeds), sampler.guidance_scale, "float32")
    image_ids = ops.cast(image_ids, "int32")
    if fillable is None:
        if isinstance(start, int) and start > 0:
            raise ValueError(
                "`fillable` must be given when decoding goes on: received "
                f"start={start}, fillable=None."
            )
        fillable = image_ids == mask_id
    num_start = _count(fillable)
    if sampler.order == "critic" and critic is None:
        raise ValueError(
            "`critic` must be a function with the order 'critic': received None."
        )

    turns = None
    if sampler.order == "halton":
        turns = halton_turns(uniform(seeds, stage, 0, _ORDER, num_tokens), grid)

    def remask(i, ids, remain):
        """The ids of which some are masked again, and how many others stay masked."""
        if not sampler.remask_rate:
            return ids, remain
        filled = ops.logical_and(fillable, ids != mask_id)
        count = sampler.remask_rate * ops.cast(_count(filled), "float32")
        # The small number absorbs what float32 loses where the product is whole.
        count = ops.minimum(ops.cast(ops.floor(count + 1e-3), "int32"), remain)
        score = uniform(seeds, stage, i, _REMASK, num_tokens)
        again = ops.logical_and(filled, _ranks(score, filled) < count[:, None])
        return ops.where(again, mask_id, ids), remain - count

    def draw(i, filtered):
        """Every token by itself, and its log-probability among what is left."""
        return sample_scored(filtered, uniform(seeds, stage, i, _TOKEN, num_tokens))

    def choice_noise(i):
        """Gumbel noise that falls to 0 at the last step."""
        done = ops.cast(i + 1, "float32") / ops.cast(num_steps, "float32")
        tau = sampler.choice_temperature * (1.0 - done)[..., None]
        return tau * gumbel(seeds, stage, i, _CONFIDENCE, num_tokens)

    def doubt(i, filled):
        """Masks the tokens that the critic trusts least."""
        remain = num_masked_after(
            i, num_steps, num_start, num_start, sampler.mask_schedule
        )
        trust = ops.log_sigmoid(ops.cast(critic(filled), "float32")) + choice_noise(i)
        again = _ranks(trust, fillable) < remain[:, None]
        return ops.where(again, mask_id, filled)

    def guidance(i):
        return guidance_at(
            i,
            num_steps,
            guidance_scale,
            sampler.guidance_schedule,
            sampler.guidance_interval,
        )

    def step(i, ids, logits):
        masked = ids == mask_id
        filtered = filter_logits(
            logits,
            sampler.temperature,
            sampler.top_k,
            sampler.top_p,
            sampler.epsilon_cutoff,
        )
        if sampler.order == "critic":
            filled = ops.where(masked, draw(i, filtered)[0], ids)
            # Nothing is masked after the last step, so nobody has to judge it.
            return ops.cond(
                ops.any(i + 1 < num_steps), lambda: doubt(i, filled), lambda: filled
            )
        remain = num_masked_after(
            i, num_steps, num_start, _count(masked), sampler.mask_schedule
        )
        ids, remain = remask(i, ids, remain)
        if sampler.order == "confidence":
            drawn, confidence = draw(i, filtered)
            if sampler.changes_probabilities:
                confidence = log_probability(logits, drawn)
            kept, _ = _largest(confidence + choice_noise(i), masked, remain)
            return ops.where(kept, drawn, ids)
        score = turns
        if sampler.order == "random":
            score = uniform(seeds, stage, i, _ORDER, num_tokens)
            score = random_turns(score, masked, sampler.spacing, grid)
        kept, ranks = _largest(score, masked, remain)
        if sampler.draw == "systematic":
            noise = uniform(seeds, stage, i, _TOGETHER, 1)
            drawn = sample_together(filtered, noise, kept, ranks)
        else:
            drawn, _ = draw(i, filtered)
        return ops.where(kept, drawn, ids)

    if first is not None:
        logits, predict = first(image_ids, guidance(start))
        image_ids = step(start, image_ids, logits)
        start = start + 1
    return ops.fori_loop(
        start, stop, lambda i, ids: step(i, ids, predict(ids, guidance(i))), image_ids
    )


def _largest(score, masked, remain):
    """Which masked tokens are revealed, all but `remain`, and the ranks that tell."""
    ranks = _ranks(score, masked)
    again = ranks < remain[:, None]
    return ops.logical_and(masked, ops.logical_not(again)), ranks


def _ranks(score, among):
    """(B, N) int32: 0 for the smallest score of a row among some tokens."""
    # Ranks, not a threshold: equal scores must not change the count.
    score = ops.where(among, score, float("inf"))
    return ops.cast(ops.argsort(ops.argsort(score, axis=1), axis=1), "int32")


def _count(tokens):
    """(B,) int32: how many of (B, N) bool are true."""
    return ops.sum(ops.cast(tokens, "int32"), axis=1)


def _as_interval(value):
    """A pair of floats.

    Raises:
        ValueError: if it is none, or not 0 <= low < high <= 1.
    """
    pair = value if isinstance(value, (list, tuple)) else ()
    numbers = all(type(number) in (int, float) for number in pair)
    if len(pair) != 2 or not numbers or not 0.0 <= pair[0] < pair[1] <= 1.0:
        raise ValueError(
            "`guidance_interval` must be a pair (low, high) with 0 <= low < high <= 1: "
            f"received guidance_interval={value!r}."
        )
    return tuple(map(float, pair))

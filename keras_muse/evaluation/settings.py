"""Whatever decides the numbers of an evaluation, as JSON."""

import importlib.metadata
import json
import platform

import keras
import keras_hub
import numpy as np

import keras_muse
from keras_muse.evaluation.features import fingerprint_of
from keras_muse.models.inputs import as_num_steps, as_scales

__all__ = ["samplers_of", "settings_of", "versions"]

# Of the backends, what their packages are called.
PACKAGES = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}


def samplers_of(muse, num_steps=None, guidance_scale=None, temperature=None):
    """The samplers of a Muse, with what a caller says.

    Args:
        muse: `keras_muse.models.MuseTextToImage`.
        num_steps: int, or one a stage. Defaults to the sampler's.
        guidance_scale: float, or one a stage. Defaults to the sampler's.
        temperature: float, or one a stage. Defaults to the sampler's.

    Returns:
        list of `Sampler`, one a stage.

    Raises:
        TypeError, ValueError: as `MuseTextToImage.generate`.
    """
    samplers = muse.samplers
    limits = [stage.transformer.num_tokens for stage in muse.backbone.stages]
    steps = as_num_steps(num_steps, [s.num_steps for s in samplers], limits)
    scales = as_scales(
        "guidance_scale", guidance_scale, [s.guidance_scale for s in samplers]
    )
    temperatures = as_scales(
        "temperature", temperature, [s.temperature for s in samplers]
    )
    return [
        sampler.replace(num_steps=steps[i], guidance_scale=scales[i]).replace(
            temperature=temperatures[i]
        )
        for i, sampler in enumerate(samplers)
    ]


def settings_of(
    muse, source, preset, samplers, seed, batch_size, tokenizer, extractor, clip
):
    """What has to be the same for the same numbers; arguments as of `evaluate`.

    Returns:
        dict, as JSON gives it back.
    """
    settings = {
        "preset": None if preset is None else str(preset),
        "weights_sha256": fingerprint_of({}, muse.backbone.weights),
        "samplers": [sampler.get_config() for sampler in samplers],
        "seed": seed,
        "seed_of_row": "seed + row",
        "batch_size": batch_size,
        "data": source.settings(),
        "extractor": _said_of(extractor),
        "clip": _said_of(clip),
        "tokenizer": bool(tokenizer),
        "versions": versions(),
    }
    return json.loads(json.dumps(settings))


def versions():
    """{name: version} of all that computes."""
    backend = keras.config.backend()
    return {
        "python": platform.python_version(),
        "backend": backend,
        backend: importlib.metadata.version(PACKAGES[backend]),
        "keras": keras.__version__,
        "keras_hub": keras_hub.__version__,
        "numpy": np.__version__,
        "pillow": importlib.metadata.version("pillow"),
        "keras_muse": keras_muse.__version__,
    }


def _said_of(extractor):
    if extractor is None:
        return None
    return {"name": extractor.name, "fingerprint": extractor.fingerprint}

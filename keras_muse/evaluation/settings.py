"""Whatever decides the numbers of an evaluation, as JSON."""

import importlib.metadata
import json
import platform

import keras
import keras_hub
import numpy as np

import keras_muse
from keras_muse.evaluation.features import fingerprint_of

__all__ = ["settings_of", "versions"]

# Of the backends, what their packages are called.
PACKAGES = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}


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

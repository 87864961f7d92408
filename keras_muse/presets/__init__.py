"""Names to weights: which presets there are, where they lie, whether they are whole."""

from keras_muse.presets.loading import verify
from keras_muse.presets.parts import parts
from keras_muse.presets.storage import store_as_float16
from keras_muse.presets.table import describe, names

__all__ = ["describe", "load", "names", "parts", "store_as_float16", "verify"]


def load(preset="muse_shapes", **kwargs):
    """Loads a preset, ready to generate.

    Args:
        preset: str. A name of `names()`, a local folder or a handle. Defaults to the
            preset in the package, which needs no network.
        **kwargs: of `MuseTextToImage.from_preset`, such as `dtype`.

    Returns:
        `keras_muse.models.MuseTextToImage`.

    Raises:
        ValueError: if the preset is unknown or damaged.

    Example:
    ```python
    muse = keras_muse.presets.load("muse_shapes")
    images = muse.generate(["two red circles above a large blue square"], seed=7)
    ```
    """
    # The room of the models knows this one; at import time it must not be the other
    # way around as well.
    from keras_muse.models import MuseTextToImage

    return MuseTextToImage.from_preset(preset, **kwargs)

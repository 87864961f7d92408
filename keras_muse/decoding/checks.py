"""What the dataclasses of settings share: copies, configs, checks."""

import dataclasses
import math

__all__ = ["Settings", "check_floats", "check_ints"]


class Settings:
    """Base of frozen dataclasses that presets store."""

    def replace(self, **settings):
        """A copy with other settings; those that are `None` stay as they are."""
        settings = {k: v for k, v in settings.items() if v is not None}
        return dataclasses.replace(self, **settings)

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def check_ints(settings, least, optional=()):
    """Refuses whole numbers out of range.

    Args:
        settings: dataclass with the numbers as attributes.
        least: dict of names and the smallest value of each.
        optional: names that may be `None`.

    Raises:
        ValueError: naming the first that is no int or too small.
    """
    for name, low in least.items():
        value = getattr(settings, name)
        if name in optional and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(
                f"`{name}` must be an int of at least {low}: received {name}={value!r}."
            )


def check_floats(settings, names):
    """Refuses what is no finite number of at least 0.

    Args:
        settings: dataclass with the numbers as attributes.
        names: sequence of str.

    Raises:
        ValueError: naming the first that is none.
    """
    for name in names:
        value = getattr(settings, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and value >= 0):
            raise ValueError(
                f"`{name}` must be a finite number of at least 0: received "
                f"{name}={value!r}."
            )

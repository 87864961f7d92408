"""What cannot be read is counted, named and skipped, until it is too much."""

import json
import os
import pathlib
import threading

__all__ = ["BadRecord", "BadRecords", "TooManyBadRecords"]


class BadRecord(ValueError):
    """A record that cannot be used.

    Args:
        key: str. Its name.
        reason: str. Why.
    """

    def __init__(self, key, reason):
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class TooManyBadRecords(RuntimeError):
    """More records than allowed cannot be used."""


class BadRecords:
    """The list of them, in a file of one JSON object a line, `key` and `reason`.

    A file that exists is read first: what is on it is skipped without a look, and is
    not listed twice.

    Args:
        path: optional str or path of a `bad.jsonl`. `None` allows no bad record at
            all: the first one is raised.
        count: int. Number of all records.
        max_fraction: float in [0, 1]. The run stops if more than this share of all
            records is bad, or all of them. Defaults to 0.01.

    Raises:
        ValueError: if `max_fraction` is out of range, or the file is not such a list.
    """

    def __init__(self, path, count, max_fraction=0.01):
        if not 0.0 <= max_fraction <= 1.0:
            raise ValueError(
                f"`max_bad_fraction` must lie in [0, 1]: received {max_fraction}."
            )
        self.path = None if path is None else pathlib.Path(path)
        self.count = count
        self.max_fraction = max_fraction
        self.reasons = {}
        self._lock = threading.Lock()
        if self.path is not None and self.path.exists():
            self.reasons = _read(self.path)
            self._check()

    def __contains__(self, key):
        """Whether a record of that name is on the list."""
        return key in self.reasons

    def __len__(self):
        """How many there are."""
        return len(self.reasons)

    def add(self, record):
        """Lists a `BadRecord`.

        Raises:
            BadRecord: this one, if there is no file to list it in.
            TooManyBadRecords: if there are more than `max_fraction` now.
        """
        if self.path is None:
            raise record
        with self._lock:
            if record.key not in self.reasons:
                self.reasons[record.key] = record.reason
                self.path.parent.mkdir(parents=True, exist_ok=True)
                line = {"key": record.key, "reason": record.reason}
                with open(self.path, "a") as file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            self._check()

    def _check(self):
        too_many = len(self.reasons) > self.max_fraction * self.count
        if too_many or len(self.reasons) == self.count:
            key, reason = list(self.reasons.items())[-1]
            raise TooManyBadRecords(
                f"{len(self.reasons)} of {self.count} records cannot be used, more "
                f"than the share of {self.max_fraction:g} that `max_bad_fraction` "
                f"allows. They are listed in {str(self.path)!r}; the last one is "
                f"{key!r}: {reason}. Mend them and remove the list, or allow more."
            )


def _read(path):
    """{key: reason} of a list."""
    reasons = {}
    lines = path.read_text().splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
            reasons[row["key"]] = row["reason"]
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines) - 1 and not line.endswith("\n"):
                # A run that was killed while it wrote: the record is found again.
                path.write_text("".join(lines[:-1]))
                break
            raise ValueError(
                f"{str(path)!r} must list bad records, a JSON object with `key` and "
                f"`reason` in each line: received {line!r} in line {number + 1}."
            ) from error
    return reasons

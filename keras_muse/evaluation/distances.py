"""Distances between the features of true and of generated pictures, as streams."""

import numpy as np

__all__ = ["FeatureMetric", "FrechetDistance", "Moments", "frechet_distance"]

FORMAT = 1


class FeatureMetric:
    """What compares the features of two sets of pictures has in common.

    Pictures come in batches of any size, true and generated ones in any order; memory
    does not grow with their number.

    Args:
        extractor: a feature extractor, see `keras_muse.evaluation.features`.
    """

    def __init__(self, extractor):
        self.extractor = extractor

    def update(self, images, real):
        """Takes pictures.

        Args:
            images: (B, H, W, 3) uint8.
            real: bool. Whether they are true pictures.
        """
        self.update_features(self.extractor(images), real)

    def update_features(self, features, real):
        """Takes features of the extractor, where several metrics share them.

        Args:
            features: (B, D) float.
            real: bool.

        Raises:
            ValueError: if the shape is another, or a feature is not finite.
        """
        features = np.asarray(features, "float64")
        if features.ndim != 2:
            raise ValueError(f"`features` must be (B, D): received {features.shape}.")
        if not np.all(np.isfinite(features)):
            raise ValueError("`features` must be finite: received NaN or infinity.")
        self._take(features, bool(real))

    def result(self):
        """Dict of the numbers, and of what they are made of."""
        return {
            **self._result(),
            "extractor": self.extractor.name,
            "fingerprint": self.extractor.fingerprint,
        }

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        raise NotImplementedError

    def load_state(self, state):
        """Goes on from what `state` returned."""
        raise NotImplementedError

    def _take(self, features, real):
        raise NotImplementedError

    def _result(self):
        raise NotImplementedError


class Moments:
    """Number, mean and scatter matrix of rows, float64, of a stream.

    Batches are merged by the formula of Chan, Golub and LeVeque (1979): it loses no
    digits where the mean is large.
    """

    def __init__(self, count=0, mean=None, scatter=None):
        self.count, self.mean, self.scatter = int(count), mean, scatter

    def update(self, rows):
        """Takes (B, D) float64."""
        if not len(rows):
            return
        if self.mean is None:
            self.mean = np.zeros(rows.shape[1])
            self.scatter = np.zeros((rows.shape[1],) * 2)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"`features` must be (B, {len(self.mean)}), as before: received "
                f"{rows.shape}."
            )
        mean = rows.mean(0)
        total = self.count + len(rows)
        apart = mean - self.mean
        rest = rows - mean
        self.scatter += rest.T @ rest
        self.scatter += np.outer(apart, apart) * (self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total

    def covariance(self):
        """(D, D), divided by one less than the number of rows."""
        return self.scatter / (self.count - 1)

    def state(self):
        """{name: array}; of nothing but the number, if that is 0."""
        if self.mean is None:
            return {"count": np.array(0)}
        return {
            "count": np.array(self.count),
            "mean": self.mean,
            "scatter": self.scatter,
        }


class FrechetDistance(FeatureMetric):
    """The Frechet distance of two sets of pictures (arXiv 1706.08500).

    On the features of `FIDInception` it is the FID of papers. Mean and covariance are
    kept in float64: memory grows with D alone.

    With no more pictures than features the covariance has no full rank and the
    distance is biased upwards; the result says so.

    Args:
        extractor: a feature extractor.

    Example:
    ```python
    distance = FrechetDistance(untrained_features())
    distance.update(pictures, real=True)
    distance.update(muse.generate(captions), real=False)
    print(distance.result()["frechet_distance"])
    ```
    """

    def __init__(self, extractor):
        super().__init__(extractor)
        self.real, self.generated = Moments(), Moments()

    def _take(self, features, real):
        (self.real if real else self.generated).update(features)

    def _result(self):
        for name, side in (("true", self.real), ("generated", self.generated)):
            if side.count < 2:
                raise ValueError(
                    f"There must be at least 2 {name} pictures: received {side.count}."
                )
        distance = frechet_distance(
            self.real.mean,
            self.real.covariance(),
            self.generated.mean,
            self.generated.covariance(),
        )
        width = len(self.real.mean)
        return {
            "frechet_distance": distance,
            "real": self.real.count,
            "generated": self.generated.count,
            "features": width,
            "rank_deficient": min(self.real.count, self.generated.count) <= width,
        }

    def save_real(self, path):
        """Writes what was seen of true pictures to an `.npz`.

        Args:
            path: str or path.

        Raises:
            ValueError: if there was none.
        """
        if not self.real.count:
            raise ValueError("There must be true pictures to save: received none.")
        with open(path, "wb") as file:
            np.savez(
                file,
                format=FORMAT,
                extractor=self.extractor.name,
                fingerprint=self.extractor.fingerprint,
                **self.real.state(),
            )

    def load_real(self, path):
        """Takes the true pictures of a `save_real` in place of those seen so far.

        Args:
            path: str or path.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is none of `save_real`, or of another extractor.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            wanted = "format extractor fingerprint count mean scatter".split()
            if sorted(found) != sorted(wanted) or found["format"] != FORMAT:
                raise ValueError("it has other contents")
        except FileNotFoundError:
            raise
        except Exception as error:
            # Of a damaged zip file, NumPy raises many types.
            raise ValueError(
                f"`path` must be a file of `save_real`: received {str(path)!r}, which "
                f"failed with {type(error).__name__}: {error}."
            ) from error
        if str(found["fingerprint"]) != self.extractor.fingerprint:
            raise ValueError(
                f"`path` must be of the extractor {self.extractor.name!r}, "
                f"{self.extractor.fingerprint}: received {str(path)!r} of "
                f"{str(found['extractor'])!r}, {str(found['fingerprint'])}."
            )
        self.real = Moments(found["count"], found["mean"], found["scatter"])

    def state(self):
        """{name: array} of all that was seen, for `load_state`."""
        sides = (("real", self.real), ("generated", self.generated))
        return {
            f"{side}_{name}": value
            for side, moments in sides
            for name, value in moments.state().items()
        }

    def load_state(self, state):
        """Goes on from what `state` returned."""
        self.real, self.generated = (
            Moments(
                state[f"{side}_count"],
                state.get(f"{side}_mean"),
                state.get(f"{side}_scatter"),
            )
            for side in ("real", "generated")
        )


def frechet_distance(first_mean, first_covariance, second_mean, second_covariance):
    """The squared Frechet distance of two normal distributions.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. The last trace is the sum of the
    singular values of `R1' R2` with `C = R R'`: nothing is rooted that rounding could
    have made negative or complex, and ranks below full need no addition to a diagonal.

    Args:
        first_mean: (D,) float.
        first_covariance: (D, D) float, symmetric.
        second_mean: (D,) float.
        second_covariance: (D, D) float, symmetric.

    Returns:
        float, at least 0.
    """
    apart = np.asarray(first_mean, "float64") - np.asarray(second_mean, "float64")
    roots = [_root(covariance) for covariance in (first_covariance, second_covariance)]
    common = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    traces = np.trace(first_covariance) + np.trace(second_covariance)
    return max(float(apart @ apart + traces - 2.0 * common), 0.0)


def _root(covariance):
    """R of `C = R R'`, without what is rounding alone."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, "float64"))
    least = values[-1] * len(values) * np.finfo("float64").eps
    return vectors * np.sqrt(np.where(values > least, values, 0.0))

"""Averaged weights while a training runs: what is measured is what will be saved."""

import keras
from keras import ops

__all__ = ["AveragedWeights", "averages_weights"]


def averages_weights(optimizer):
    """Whether an optimizer has `use_ema`, or the one inside that scales its loss."""
    return getattr(optimizer, "inner_optimizer", optimizer).use_ema


class AveragedWeights(keras.callbacks.SwapEMAWeights):
    """Validates with the moving average of the weights; trains on with the weights.

    For an optimizer with `use_ema`. Unlike in Keras' own, the average of a trainer's
    codebook, see `VQGANTrainer`, goes with that of its encoder.
    """

    def on_test_begin(self, logs=None):
        """Swaps the weights and their averages."""
        super().on_test_begin(logs)
        self._swap()

    def on_test_end(self, logs=None):
        """Swaps them back."""
        super().on_test_end(logs)
        self._swap()

    def around(self, draw):
        """A function that calls `draw` with the averages in place of the weights."""

        def averaged():
            self.on_test_begin()
            try:
                return draw()
            finally:
                self.on_test_end()

        return averaged

    def _swap(self):
        for variable, average in getattr(self.model, "averages", ()):
            # Copies: on PyTorch a tensor is the variable's own memory, and JAX cannot
            # give one buffer to a step twice.
            value = ops.copy(variable)
            variable.assign(ops.copy(average))
            average.assign(value)

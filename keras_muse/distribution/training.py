"""`fit` on as many devices as `distribute` was asked for."""

import keras

from keras_muse.distribution.devices import current
from keras_muse.distribution.replicas import replica

__all__ = ["DistributedTrainer"]


class DistributedTrainer:
    """Mixin in front of a Keras model, whose `fit` then uses all devices.

    JAX needs nothing but Keras' own `fit`. On PyTorch the step goes through
    `DistributedDataParallel`. On TensorFlow a loop of our own calls the step by
    `strategy.run`: that of Keras stops in several workers.

    In several processes `evaluate` needs as many batches in each of them.

    All that `compute_loss` shows in the logs has to be a metric of the model, and a
    term of its loss that divides by something else than rows has to divide by the
    `mean` of it over the replicas.
    """

    # Whether the rules of a layout are about its weights.
    layout_is_for_it = False

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; `x` must be a `tf.data.Dataset` under `tf.distribute`.

        Each process gives its own part of the batches, see `distribute`.

        Raises:
            ValueError: if a rule of the layout matches no variable, or batches cannot
                be cut into equal parts.
        """
        current().check(self)
        if self._has_strategy():
            from keras_muse.distribution.on_tensorflow import fit

            return fit(self, x, *args, **kwargs)
        if not self._has_process_group():
            # Keras says what is missing if `compile` was not called.
            if keras.config.backend() == "tensorflow" and self.compiled:
                from keras_muse.distribution.on_tensorflow import build_optimizer

                build_optimizer(self)
            return super().fit(x, *args, **kwargs)
        from keras_muse.distribution.on_torch import parallel

        # Past PyTorch's own assignment, which would make it a part of itself.
        object.__setattr__(self, "_parallel", parallel(self))
        try:
            return super().fit(x, *args, **kwargs)
        finally:
            # What is trainable may be something else next time.
            del self.__dict__["_parallel"]

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`; see `fit`."""
        if self._has_strategy():
            from keras_muse.distribution.on_tensorflow import evaluate

            return evaluate(self, x, *args, **kwargs)
        return super().evaluate(x, *args, **kwargs)

    def train_step(self, *args):
        """One step, with the gradients of all replicas."""
        if self._has_process_group():
            from keras_muse.distribution.on_torch import step
        elif self._has_strategy():
            from keras_muse.distribution.on_tensorflow import step
        else:
            return super().train_step(*args)
        x, _, _ = keras.utils.unpack_x_y_sample_weight(args[0])
        return step(self, x)

    def get_metrics_result(self):
        """Results of the metrics over all processes."""
        if not self._has_process_group():
            return super().get_metrics_result()
        from keras_muse.distribution.on_torch import sum_of_metrics

        return sum_of_metrics(self.metrics)

    def _has_strategy(self):
        if keras.config.backend() != "tensorflow":
            return False
        return self.distribute_strategy.num_replicas_in_sync > 1

    def _has_process_group(self):
        return keras.config.backend() == "torch" and replica()[1] > 1

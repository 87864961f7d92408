"""The terms of the image tokenizer's loss that are not the quantizer's.

Each is a `keras.losses.Loss`, whose reduction also divides by the replicas of
`tf.distribute`.
"""

import keras
from keras import ops

from keras_muse.layers import register

__all__ = [
    "HingeDiscriminatorLoss",
    "HingeGeneratorLoss",
    "NonSaturatingDiscriminatorLoss",
    "NonSaturatingGeneratorLoss",
    "PerceptualLoss",
    "frozen_call",
]


def frozen_call(model, inputs):
    """`model(inputs)`, with gradients towards `inputs` but not to the model's weights.

    Args:
        model: built `keras.Model`.
        inputs: what the model is called on.

    Returns:
        What the model returns with `training=False`.
    """
    weights = [ops.stop_gradient(v) for v in model.trainable_variables]
    state = [ops.convert_to_tensor(v) for v in model.non_trainable_variables]
    return model.stateless_call(weights, state, inputs, training=False)[0]


@register
class HingeGeneratorLoss(keras.losses.Loss):
    """`-logits` of generated images; `y_true` is not looked at (arXiv 1705.02894)."""

    def __init__(self, name="hinge_generator", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        del y_true
        return -y_pred


@register
class HingeDiscriminatorLoss(keras.losses.Loss):
    """Pushes logits above 1 where `y_true` is 1 (real), below -1 where it is 0."""

    def __init__(self, name="hinge_discriminator", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        return ops.relu(1.0 - (2.0 * y_true - 1.0) * y_pred)


@register
class NonSaturatingGeneratorLoss(keras.losses.Loss):
    """`-log sigmoid(logits)` of generated images; `y_true` is not looked at."""

    def __init__(self, name="non_saturating_generator", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        del y_true
        return ops.softplus(-y_pred)


@register
class NonSaturatingDiscriminatorLoss(keras.losses.Loss):
    """Cross-entropy of logits with `y_true`, 1 for real and 0 for generated."""

    def __init__(self, name="non_saturating_discriminator", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        return ops.softplus(-(2.0 * y_true - 1.0) * y_pred)


class PerceptualLoss(keras.losses.Loss):
    """Distance of two images in the features of a network (arXiv 1801.03924).

    Each feature map is scaled to length one along its channels; squared differences
    are summed over channels, averaged over positions and summed over the maps. It is
    LPIPS with all its learned channel weights equal to one. The network is not trained:
    gradients flow through it to the images alone.

    Args:
        feature_model: built `keras.Model` from (B, H, W, 3) images to one feature map
            or a list of them, or to a (B, D) vector such as logits.
        layers: list of str. Names of layers of `feature_model`, whose outputs are
            compared instead of the model's. Defaults to None.
        preprocess: callable. From images in [0, 1] to what `feature_model` expects,
            of `keras.ops` alone. Defaults to no change.
        name: str. Defaults to `"perceptual"`.
        **kwargs: `reduction`, `dtype` of a Keras loss.

    Call arguments:
        y_true: (B, H, W, 3) float in [0, 1].
        y_pred: (B, H, W, 3) float.

    Raises:
        ValueError: `feature_model` has no weights yet, or no layer of a given name.
    """

    def __init__(
        self,
        feature_model,
        layers=None,
        preprocess=None,
        name="perceptual",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if not feature_model.built:
            raise ValueError(
                f"`feature_model` must be built, got {feature_model.name!r} unbuilt."
            )
        if layers is not None:
            outputs = [feature_model.get_layer(layer).output for layer in layers]
            feature_model = keras.Model(feature_model.input, outputs)
        self.feature_model = feature_model
        self.preprocess = preprocess

    def call(self, y_true, y_pred):
        true_maps = self._features(ops.stop_gradient(y_true))
        pred_maps = self._features(y_pred)
        total = 0.0
        for true, pred in zip(true_maps, pred_maps):
            distance = ops.sum(ops.square(true - pred), axis=-1)
            axes = tuple(range(1, len(distance.shape)))
            total = total + (ops.mean(distance, axis=axes) if axes else distance)
        return total

    def _features(self, images):
        if self.preprocess is not None:
            images = self.preprocess(images)
        maps = keras.tree.flatten(frozen_call(self.feature_model, images))
        return [_unit_length(ops.cast(each, "float32")) for each in maps]


def _unit_length(features):
    squares = ops.sum(ops.square(features), axis=-1, keepdims=True)
    return features * ops.rsqrt(squares + 1e-10)

"""Compiles a function of a model for inference, on each backend.

This is the only place of the package where generation touches a backend.
"""

import functools

import keras

__all__ = ["compile_inference"]


def compile_inference(model, function):
    """Compiles `function`, which may read the weights of `model`.

    Args:
        model: `keras.Model`. The owner of every weight that `function` reads.
        function: function of tensors (nested in dicts and lists) to tensors, without
            side effects.

    Returns:
        A function with the same signature: jitted on JAX, a `tf.function` on
        TensorFlow, without gradients on PyTorch. Weights are read anew at each call.
    """
    if model.run_eagerly:
        return function
    backend = keras.config.backend()
    if backend == "jax":
        return _compile_jax(model, function)
    if backend == "tensorflow":
        import tensorflow as tf

        # TensorFlow warns of frequent retracing by the code of a function, which many
        # of these share; a partial has none. AutoGraph would look for Python control
        # flow of tensors, which other backends have not either, for seconds.
        return tf.function(
            functools.partial(function), reduce_retracing=True, autograph=False
        )
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    return function


def _compile_jax(model, function):
    import jax

    sharding = None
    if keras.distribution.distribution() is not None:
        # Whole on every device: a process cannot read what another one has.
        mesh = keras.distribution.distribution().device_mesh.backend_mesh
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    @functools.partial(jax.jit, out_shardings=sharding)
    def pure(values, *args):
        # Weights are arguments: as constants they would be compiled into the program
        # and stay what they were.
        mapping = zip(model.variables, values)
        with keras.StatelessScope(state_mapping=mapping):
            return function(*args)

    def call(*args):
        return pure([variable.value for variable in model.variables], *args)

    return call

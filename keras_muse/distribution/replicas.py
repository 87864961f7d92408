"""What a training step has to know of the copies of it that run beside it.

A batch is cut into equal parts, one for each replica, in order. JAX computes as if it
had never been cut, so there is nothing to know there; TensorFlow and PyTorch run a step
of their own on every part.
"""

import keras
from keras import ops

__all__ = ["first_row", "mean", "replica", "use_process_group"]

# Whether the steps of this process are some of many, which PyTorch does not tell: a
# process may belong to a group for another reason.
_TORCH_GROUP = False


def use_process_group(used):
    """Whether steps on PyTorch average over all processes of the default group."""
    global _TORCH_GROUP
    _TORCH_GROUP = used


def replica():
    """(index, count) of the replica that this is called in; (0, 1) on JAX.

    Returns:
        int or int32 scalar, and int.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.replica_id_in_sync_group, context.num_replicas_in_sync
    if backend == "torch" and _TORCH_GROUP:
        import torch

        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def first_row(rows):
    """Rows of the whole batch that lie before those of this replica.

    Args:
        rows: int or int32 scalar. How many rows a replica has.

    Returns:
        int or int32 scalar, 0 where there is one replica.
    """
    index, _ = replica()
    return index * rows


def mean(value):
    """The mean of a tensor over all replicas, without a gradient.

    Args:
        value: float tensor, of one shape on every replica.

    Returns:
        The same tensor where there is one replica.
    """
    _, count = replica()
    if count == 1:
        return value
    value = ops.stop_gradient(value)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)
    import torch

    value = value.clone()
    torch.distributed.all_reduce(value)
    return value / count

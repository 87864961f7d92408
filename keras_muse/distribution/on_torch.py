"""Data parallelism on PyTorch: DistributedDataParallel in processes of `torchrun`."""

import os

import torch

from keras_muse.distribution.devices import Devices
from keras_muse.distribution.replicas import use_process_group

__all__ = ["TorchDevices", "parallel", "step", "sum_of_metrics"]


class TorchDevices(Devices):
    """One process for each device, as `torchrun` starts them.

    Args:
        devices: must be `None`; `torchrun` says how many there are.

    Raises:
        ValueError: if `devices` is given, or the process was not started by `torchrun`.
    """

    def __init__(self, devices):
        if devices is not None:
            raise ValueError(
                "`devices` must be None on PyTorch, `torchrun --nproc_per_node` says "
                f"how many there are: received {devices}."
            )
        if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= set(os.environ):
            raise ValueError(
                "On PyTorch every device has a process of its own. Start this with "
                "`torchrun --nproc_per_node DEVICES ...`, which sets RANK, LOCAL_RANK "
                "and WORLD_SIZE: they are not set."
            )
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        self._started = not torch.distributed.is_initialized()
        if self._started:
            torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
        count = torch.distributed.get_world_size()
        self.shard = (torch.distributed.get_rank(), count)
        self.num_replicas = count
        use_process_group(True)

    def barrier(self):
        torch.distributed.barrier()

    def stop(self):
        use_process_group(False)
        if self._started:
            torch.distributed.destroy_process_group()


class _Loss(torch.nn.Module):
    """Forward pass and loss as one module, so that DDP sees all that is used.

    Its parameters are listed one by one: PyTorch does not find those of a layer that
    Keras holds in a list, and DDP would leave their gradients apart.
    """

    def __init__(self, trainer):
        super().__init__()
        # Past PyTorch's own assignment, which would find some of them a second time.
        object.__setattr__(self, "trainer", trainer)
        values = [variable.value for variable in trainer.trainable_variables]
        self.weights = torch.nn.ParameterList(values)

    def forward(self, x):
        y_pred = self.trainer(x, training=True)
        loss = self.trainer.compute_loss(x=x, y_pred=y_pred, training=True)
        return self.trainer.optimizer.scale_loss(loss)


def parallel(trainer):
    """The loss of a trainer as a module that averages gradients over all processes.

    All variables become those of the first process: the frozen ones, codebooks and
    seeds as well, of which DDP knows nothing.
    """
    for variable in trainer.variables:
        torch.distributed.broadcast(variable.value.data, 0)
    return torch.nn.parallel.DistributedDataParallel(
        _Loss(trainer),
        # A term may have weights that no gradient reaches, the same in every step.
        static_graph=True,
    )


def step(trainer, x):
    """One step of a trainer whose `_parallel` is that of `parallel`.

    Raises:
        ValueError: outside of `fit`, which makes it.
    """
    if "_parallel" not in trainer.__dict__:
        raise ValueError(
            "In several processes train with `fit`: a step alone would not know of the "
            "others."
        )
    weights = trainer.trainable_weights
    for weight in weights:
        weight.value.grad = None
    trainer._parallel(x).backward()
    gradients = [weight.value.grad for weight in weights]
    with torch.no_grad():
        trainer.optimizer.apply(gradients, weights)
    return trainer.get_metrics_result()


def sum_of_metrics(metrics):
    """Results of metrics over all processes, as they keep sums and counts.

    Args:
        metrics: list of `keras.metrics.Metric`, the same in every process.

    Returns:
        dict of name to scalar.
    """
    values = [v.value.detach() for metric in metrics for v in metric.variables]
    flat = torch.cat([value.reshape(-1).float() for value in values])
    torch.distributed.all_reduce(flat)
    parts = iter(flat.split([value.numel() for value in values]))
    results = {}
    for metric in metrics:
        total = [next(parts).reshape(v.shape) for v in metric.variables]
        results[metric.name] = metric.stateless_result(total)
    return results

"""Fit with `trainer.strategy=fsdp`."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from halut.errors import HalutError
from halut.replace.swap import replaced_layers
from halut.training.lightning.module import Recipe, StageModule
from halut.training.parallel import sharding
from halut.training.parallel.distributed import share_buffers
from halut.training.parallel.full_state import model_state


class ShardedModule(StageModule):
    """Trains a sharded copy of `network`, which gets its weights for validation and at the end.

    What is measured, saved and used by all that comes after the fit is whole.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, recipe: Recipe, teacher: nn.Module | None = None
    ) -> None:
        for name, layer in replaced_layers(network):
            if getattr(layer, "revival", None) is not None:
                raise HalutError(
                    f"trainer.strategy=fsdp: {name} has halut.revive_every, which moves prototypes "
                    "that are in shards: use trainer.strategy=ddp"
                )
        super().__init__(copy.deepcopy(network), num_classes, recipe, teacher)
        self._whole = lambda: network  # no submodule: it stays where it is and is not copied

    @property
    def whole(self) -> nn.Module:
        return self._whole()

    def shard(self, network: nn.Module, mesh: DeviceMesh) -> None:
        """Shard the network trained, or a copy of it."""
        # The losses of tables are not part of any block's forward pass.
        sharding.shard(network, mesh, keep_gathered=self._table_losses is not None)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        try:
            return super().training_step(batch, batch_idx)
        except RuntimeError as error:
            if "DTensor" not in str(error):
                raise
            raise HalutError(
                "trainer.strategy=fsdp: the network reads a block's weights outside the block's "
                f"forward pass, where they are in shards: use trainer.strategy=ddp ({error})"
            ) from error

    def configure_optimizers(self) -> OptimizerLRScheduler:
        configured = super().configure_optimizers()
        one_kind(configured["optimizer"])  # type: ignore[index, call-overload, arg-type]
        return configured

    def on_fit_start(self) -> None:
        super().on_fit_start()
        one_kind(self.trainer.optimizers[0])  # a checkpoint's groups need not be

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        sharding.average(parameters(optimizer))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val:
            sharding.clip_norm(parameters(optimizer), gradient_clip_val)

    def on_validation_epoch_start(self) -> None:
        sharding.gather(self.network, self.whole)
        self.whole.to(self.device).eval()
        share_buffers(self.whole)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.whole.cpu().train()

    def on_train_end(self) -> None:
        sharding.gather(self.network, self.whole)


class ShardedStrategy(DDPStrategy):
    """Lightning's ranks as for ddp, but with the module's network in shards instead of wrapped.

    Lightning's own, FSDPStrategy and ModelParallelStrategy, make new process groups for every fit
    and shard before a checkpoint is read, of which each rank then needs its part. Here weights are
    read whole, before the network is sharded, and optimizer states after.
    """

    mesh: DeviceMesh

    def model_to_device(self) -> None:
        """Sharding moves it, block by block."""

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert isinstance(module, ShardedModule)
        self.mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        module.shard(module.network, self.mesh)
        super().model_to_device()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return model_state(self.lightning_module)

    def teardown(self) -> None:
        self.optimizers = []
        module = self.lightning_module
        if isinstance(module, ShardedModule):
            module.network = module.whole
        super().teardown()


def parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """All that the optimizer steps, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def one_kind(optimizer: Optimizer) -> None:
    """Groups of shards and whole tensors step one by one: no kernel takes both at once."""
    for group in optimizer.param_groups:
        kinds = {isinstance(p, DTensor) for p in group["params"]}
        group["foreach"] = False if len(kinds) > 1 else None

"""Lightning callbacks: checkpoint I/O, the best weights, figures of every replaced layer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from halut.errors import HalutError
from halut.io import write_bytes
from halut.replace.swap import replaced_layers
from halut.sites.eval_mode import eval_mode
from halut.sites.modules import call_inputs
from halut.training.logging.metrics import RunLogger
from halut.training.parallel.distributed import is_main
from halut.training.run_folder import save_network


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints written whole or not at all, and read as tensors and plain data only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_bytes(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # torch raises several unrelated types on damaged files
            size, message = Path(path).stat().st_size, " ".join(str(error).split())[:200]
            raise HalutError(
                f"checkpoint {path} ({size} bytes) cannot be read: {message}"
            ) from error


class BestWeights(Callback):
    """Writes the network's state whenever validation accuracy is better than before.

    Must stand before the weight averaging in the list of callbacks: it then sees the averaged
    weights, those the accuracy was measured with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.accuracy = -1.0
        self.epoch = -1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        accuracy = 100 * float(pl_module.accuracy.compute())  # type: ignore[operator, union-attr]
        if accuracy > self.accuracy:
            self.accuracy, self.epoch = accuracy, trainer.current_epoch
            if is_main():
                save_network(self.path, pl_module.whole)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.accuracy, self.epoch = state_dict["accuracy"], state_dict["epoch"]


class LayerFigures(Callback):
    """Logs every replaced layer's figures on the first validation batch of each epoch."""

    def __init__(self, logger: RunLogger, samples: int = 16) -> None:
        self.logger = logger
        self.samples = samples
        self.batch: Tensor | None = None

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self.batch = batch[0][: self.samples]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.batch is None or not is_main():
            return
        figures = {
            f"layers/{name}/{key}": value
            for name, row in layer_figures(pl_module.whole, self.batch).items()  # type: ignore[arg-type]
            for key, value in row.items()
        }
        self.logger.log_metrics(figures, max(trainer.global_step - 1, 0))  # as Lightning counts
        self.batch = None


def layer_figures(network: nn.Module, x: Tensor) -> dict[str, dict[str, float]]:
    """`diagnose` of every replaced layer on what it sees when the network is given x."""
    inputs_of: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        def first(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Returns nothing: an answer would go in.
            inputs_of.setdefault(name, [x.detach() for x in call_inputs(args, kwargs)])

        return first

    layers = dict(replaced_layers(network))
    handles = [m.register_forward_pre_hook(note(n), with_kwargs=True) for n, m in layers.items()]
    with eval_mode(network, handles):
        network(x)
        return {name: layers[name].diagnose(*inputs_of[name]) for name in inputs_of}

"""Another project's LightningModule: its layers replaced, its training unchanged but a callback.

python examples/lightning_module.py
"""

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import halut


class TheirModule(L.LightningModule):
    """Knows nothing of halut."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return cross_entropy(self(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def fit(module: L.LightningModule, epochs: int, *callbacks: L.Callback) -> float:
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module.train(), loader)
    module.eval()
    with torch.no_grad():
        return 100 * (module(x).argmax(1) == y).float().mean().item()


L.seed_everything(0)
y = torch.arange(1024) % 4
bars = torch.zeros(4, 1, 8, 8)  # horizontal, vertical, two diagonals
bars[0, 0, 3], bars[1, 0, :, 3], bars[2, 0], bars[3, 0] = 1, 1, torch.eye(8), torch.eye(8).flip(0)
x = 2 * bars[y] + 0.5 * torch.randn(1024, 1, 8, 8)
loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)

module = TheirModule()
exact = fit(module, 6)

halut.replace_(module, halut.Tree(), calibration=loader)  # all but first and last
halut.recalibrate(module, loader)
callback = halut.lightning.HalutCallback()
trained = fit(module, 2, callback)
print(f"accuracy: exact {exact:.1f}, replaced and trained {trained:.1f} %")

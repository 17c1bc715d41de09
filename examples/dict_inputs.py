"""A transformer that takes a dictionary of inputs and answers one, as language models do.

python examples/dict_inputs.py
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import halut

WIDTH, HEADS, TOKENS, WORDS = 32, 4, 12, 16


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (
            f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Classifier(nn.Module):
    """network(input_ids=..., attention_mask=..., labels=...)["loss"]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 2)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        mask = attention_mask.bool()
        x = self.words(input_ids)
        for block in self.blocks:
            x = block(x, mask)
        x = (x * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.head(x)
        loss = {} if labels is None else {"loss": cross_entropy(logits, labels)}
        return {"logits": logits, **loss}


def make_batch() -> dict[str, Tensor]:
    """Sentences of several lengths; the question: is word 1 in it?"""
    ids = torch.randint(2, WORDS, (64, TOKENS))
    mask = (torch.arange(TOKENS) < torch.randint(4, TOKENS + 1, (64, 1))).long()
    labels = torch.arange(64) % 2
    ids[labels == 1, 1] = 1
    ids[(labels == 0), -1] = torch.where(mask[labels == 0, -1] == 1, ids[labels == 0, -1], 1)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def train(network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    for batch in batches:
        optimizer.zero_grad()
        network(**batch)["loss"].backward()
        optimizer.step()
    return accuracy(network)


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    right = [network(**b)["logits"].argmax(1) == b["labels"] for b in held_out]
    return 100 * torch.cat(right).float().mean().item()


torch.manual_seed(0)
batches, held_out = [make_batch() for _ in range(100)], [make_batch() for _ in range(8)]
network = Classifier()
exact = train(network, torch.optim.AdamW(network.parameters(), lr=2e-3))

# q, k and v of a block read the same tensor: they share one encoder.
plan = halut.replace_(network, halut.PQ(V=4), batches[:6], share=True, keep_first=False)
optimizer = torch.optim.AdamW(halut.param_groups(network, lr=1e-3))
halut.attach(optimizer, network, steps=len(batches))
trained = train(network, optimizer)
errors = halut.errors(network, held_out)
print(f"{len(plan.replaced)} layers replaced")
# For inference: one packed layer for q, k and v, verified on the example.
prepared = halut.prepare(network, held_out[0])
served = accuracy(prepared)
print(f"accuracy: exact {exact:.1f}, replaced and trained {trained:.1f}, prepared {served:.1f} %")

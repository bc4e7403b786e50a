"""The GHN-2 encoder: one forward and one backward sweep of a gated graph network.

After "Parameter Prediction for Unseen Deep Architectures" (Knyazev et al., 2021). The original
visits the nodes one by one in topological order. A node needs only its predecessors, so that
all nodes whose predecessors are done are updated together here: the same sums, one step a level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Message(nn.Module):
    """What a node sends along an edge."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, hidden // 2)
        self.outer = nn.Linear(hidden // 2, hidden)

    def forward(self, h: Tensor) -> Tensor:
        """H [n, H] -> [n, H]."""
        return torch.relu(self.outer(torch.relu(self.inner(h))))


class GatedGnn(nn.Module):
    """Node features and distances to node states."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.message = Message(hidden)
        self.far_message = Message(hidden)
        self.update = nn.GRUCell(hidden, hidden)

    def forward(self, x: Tensor, distance: Tensor) -> Tensor:
        """X [N, H], distance int64[N, N] -> [N, H]."""
        edge = (distance == 1).to(x.dtype)
        reach = torch.where(distance > 0, 1.0 / distance.clamp(min=1).to(x.dtype), 0.0)
        x = self.sweep(x, edge, reach)
        return self.sweep(x, edge.t(), reach.t())

    def sweep(self, h: Tensor, edge: Tensor, reach: Tensor) -> Tensor:
        """Update every node after all that have an edge to it.

        Args:
            h: [N, H], states before.
            edge: [N, N], 1 where the row's node sends to the column's.
            reach: [N, N], 1 / distance along directed paths, 0 where there is none.
        """
        waiting = edge.sum(0)  # predecessors that are not done; -1 once a node is done itself
        near = torch.zeros_like(h)
        far = torch.zeros_like(h)
        done = 0
        while done < h.shape[0]:
            level = (waiting == 0).nonzero().flatten()
            if level.numel() == 0:
                raise RuntimeError("the graph has a cycle")
            received = torch.matmul(edge[:, level].t(), near) + torch.matmul(
                reach[:, level].t(), far
            )
            state = self.update(received, h[level])
            h = h.index_copy(0, level, state)
            near = near.index_copy(0, level, self.message(state))
            far = far.index_copy(0, level, self.far_message(state))
            waiting = (waiting - edge[level].sum(0)).index_fill(0, level, -1.0)
            done += level.numel()
        return h

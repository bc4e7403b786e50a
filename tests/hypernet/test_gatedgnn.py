import pytest
import torch

from onnx_ghn.hypernet.gatedgnn import GatedGnn


def random_distances(nodes, seed):
    """Shortest directed paths, at most 5, of a random graph in topological order."""
    torch.manual_seed(seed)
    edge = torch.triu(torch.rand(nodes, nodes) < 0.3, diagonal=1)
    distance = edge.long()
    reached = edge.clone()
    for length in range(2, 6):
        reached = (reached.float() @ edge.float()) > 0
        distance = torch.where((distance == 0) & reached, length, distance)
    return distance


def one_by_one(gnn, h, distance):
    """The definition: each node in turn, forwards and then backwards."""
    h = h.clone()
    for matrix, order in ((distance, range(len(h))), (distance.t(), reversed(range(len(h))))):
        for v in order:
            message = torch.zeros(h.shape[1])
            for u in range(len(h)):
                if matrix[u, v] == 1:
                    message = message + gnn.message(h[u])
                if matrix[u, v] > 0:
                    message = message + gnn.far_message(h[u]) / matrix[u, v]
            h = h.clone()
            h[v] = gnn.update(message[None], h[v][None])[0]
    return h


@pytest.mark.parametrize("seed", range(4))
def test_levels_give_what_single_nodes_give(seed):
    distance = random_distances(12, seed)
    gnn = GatedGnn(8)
    x = torch.randn(12, 8)
    torch.testing.assert_close(gnn(x, distance), one_by_one(gnn, x, distance), atol=1e-6, rtol=0)


def test_gradients_reach_every_weight():
    gnn = GatedGnn(8)
    gnn(torch.randn(12, 8), random_distances(12, 0)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gnn.parameters())


def test_a_cycle_is_an_error():
    with pytest.raises(RuntimeError, match="cycle"):
        GatedGnn(8)(torch.randn(2, 8), torch.tensor([[0, 1], [1, 0]]))

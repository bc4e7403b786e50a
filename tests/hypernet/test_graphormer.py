import torch

from onnx_ghn.hypernet.graphormer import Attention, Centrality, DistanceBias, Graphormer


def chain(nodes):
    position = torch.arange(nodes)
    return (position[None] - position[:, None]).clamp(min=0)


def test_bias_table_holds_the_bias_of_every_pair():
    torch.manual_seed(0)
    bias = DistanceBias(8, 4)
    distance = torch.randint(0, 256, (9, 9)) * (torch.rand(9, 9) < 0.5)
    table, index = bias(distance)
    ends = torch.stack([distance, distance.t()], -1).clamp(max=254) + 2
    direct = bias.mix(bias.embedding(ends).flatten(2))
    torch.testing.assert_close(table[:, index], direct.permute(2, 0, 1))


def test_few_distinct_pairs_make_a_small_table():
    table, index = DistanceBias(8, 4)(chain(20))
    assert table.shape == (4, 39)  # distances 0..19 either way
    assert index.shape == (20, 20)


def test_attention_in_blocks_of_rows_is_the_same():
    torch.manual_seed(0)
    attention = Attention(16, 4)
    x, (table, index) = torch.randn(10, 16), DistanceBias(16, 4)(chain(10))
    whole = attention(x, table, index)
    attention.scores_at_once = 3 * 10 * 4
    torch.testing.assert_close(attention(x, table, index), whole)


def test_centrality_counts_edges_only():
    centrality = Centrality(4)
    distance = torch.tensor([[0, 1, 2], [0, 0, 1], [0, 0, 0]])
    added = centrality(torch.zeros(3, 4), distance)
    expected = (
        centrality.in_degree.weight[[0, 1, 1]]
        + centrality.out_degree.weight[[1, 1, 0]]
        + centrality.from_input.weight[[0, 1, 2]]
    )
    torch.testing.assert_close(added, expected)


def test_another_order_of_the_nodes_gives_the_same_states():
    torch.manual_seed(0)
    encoder = Graphormer(16, layers=2, heads=4).eval()
    distance = torch.tensor([[0, 1, 1, 2], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
    x, order = torch.randn(4, 16), torch.tensor([0, 2, 1, 3])
    there = encoder(x, distance)
    torch.testing.assert_close(encoder(x[order], distance[order][:, order]), there[order])


def test_gradients_reach_every_weight():
    torch.manual_seed(0)
    encoder = Graphormer(16, layers=2, heads=4)
    encoder(torch.randn(6, 16), chain(6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())

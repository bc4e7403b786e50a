import torch

from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.train.parameters import FlatState, Optimizer, bind, bind_gradients


def network(seed=0):
    torch.manual_seed(seed)
    return KindsHypernetwork(16, 1, 2, 3)


def test_every_parameter_is_a_view_of_the_state():
    net = network()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    state = FlatState.of(net)
    bind(net, state.weights)
    assert sum(flat.numel() for flat in state.weights) == sum(p.numel() for p in net.parameters())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name])
    with torch.no_grad():
        for flat in state.weights:
            flat.zero_()
    assert all(not parameter.any() for parameter in net.parameters())


def test_the_templates_and_nothing_of_the_trunk_are_output_layers():
    net = network()
    templates = sum(
        p.numel()
        for name, p in net.named_parameters()
        if ".templates." in name or name.startswith("class_bias")
    )
    assert FlatState.of(net).weights[1].numel() == templates


def test_an_update_is_that_of_adamw_with_two_rates():
    net, twin = network(), network()
    state = FlatState.of(net)
    optimizer = Optimizer(state, rates=(1e-3, 3e-3), weight_decay=0.1)
    bind(net, state.weights)
    bind_gradients(net, optimizer.gradients)
    groups = ([], [])
    for name, parameter in twin.named_parameters():
        groups[".templates." in name or name.startswith("class_bias")].append(parameter)
    reference = torch.optim.AdamW(
        [{"params": groups[0], "lr": 5e-4}, {"params": groups[1], "lr": 1.5e-3}],
        betas=(0.9, 0.99),
        weight_decay=0.1,
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        optimizer.zero_gradients()
        for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            gradient = torch.randn(mine.shape, generator=generator)
            mine.grad.add_(gradient)
            theirs.grad = gradient
        optimizer.update(0.5)
        reference.step()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_the_average_follows_the_weights():
    net = network()
    state = FlatState.of(net)
    optimizer = Optimizer(
        state, rates=(0.1, 0.1), weight_decay=0.0, average_decay=0.5, average_every=1
    )
    for gradient in optimizer.gradients:
        gradient.fill_(1.0)
    start = state.weights[0].clone()
    for _ in range(20):
        optimizer.update(1.0)
    moved = (state.weights[0] - start).mean()
    averaged = (state.average[0] - start).mean()
    assert moved < averaged < 0.8 * moved < 0


def test_a_state_is_restored_from_its_copy():
    state, other = FlatState.of(network()), FlatState.of(network(1))
    state.first[0].normal_()
    state.steps[0].fill_(7)
    other.load(state.copy())
    for name, tensor in state.tensors().items():
        torch.testing.assert_close(other.tensors()[name], tensor)

import torch

from onnx_ghn.hypernet.kinds import KindsHypernetwork
from onnx_ghn.train.parameters import (
    PARTS,
    TRUNK,
    FlatState,
    Optimizer,
    bind,
    bind_gradients,
    part_of,
)


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


def test_each_decoder_s_templates_are_a_part():
    net = network()
    state = FlatState.of(net)
    assert len(state.weights) == PARTS
    sizes = {part_of(kind): decoder.templates for kind, decoder in enumerate(net.decoders)}
    sizes[part_of("vector")] = net.vector.templates
    for part, templates in sizes.items():
        count = sum(p.numel() for p in templates.parameters())
        assert state.weights[part].numel() == count
    assert part_of("class_weight") == part_of("class_bias") == PARTS - 1
    assert TRUNK not in sizes


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
        optimizer.update(0.5, range(PARTS))
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
        optimizer.update(1.0, range(PARTS))
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


def test_a_part_without_gradient_is_left_alone_and_gradients_shrink():
    state = FlatState.of(network())
    optimizer = Optimizer(state, rates=(0.1, 0.1), weight_decay=0.1)
    before = state.copy()
    optimizer.gradients[2].fill_(4.0)
    optimizer.update(1.0, [2], shrink=0.25)
    after = state.copy()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed - {"average.2"} == {"weights.2", "first.2", "second.2", "steps.2"}
    torch.testing.assert_close(after["first.2"], torch.full_like(after["first.2"], 0.1))


def test_norms_are_those_of_the_parts():
    optimizer = Optimizer(FlatState.of(network()), rates=(0.1, 0.1), weight_decay=0.0)
    optimizer.gradients[1][:4] = 3.0
    assert optimizer.norms([0, 1]) == {0: 0.0, 1: 6.0}
    optimizer.zero_gradients([1])
    assert optimizer.norms([1]) == {1: 0.0}

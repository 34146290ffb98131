"""The pretended card refuses what a real one refuses, and counts what a real one waits for."""
import pytest
import torch

from mditface.tests.devices.card import WrongDevice
from mditface.tests.devices.host import pretend_cards


@pytest.fixture
def card():
    with pretend_cards(cards=2) as card:
        yield card


def on_card(*numbers: float, device: str = "cuda:0") -> torch.Tensor:
    return torch.tensor(numbers, device=device)


def test_tensors_report_their_card_and_keep_their_numbers(card):
    x = torch.arange(6.0).to("cuda:0").view(2, 3)
    x[1:] += 1
    assert x.device == torch.device("cuda:0") and x.is_cuda
    assert x.tolist() == [[0, 1, 2], [4, 5, 6]]
    assert x.to("cuda:0") is x and x.to("cuda:1").device.index == 1
    assert type(x.cpu()) is torch.Tensor


REFUSED = {
    "addition": lambda x: x + torch.ones(3),
    "matrix product": lambda x: x[None] @ torch.ones(3, 1),
    "joining": lambda x: torch.cat((x, torch.ones(1))),
    "other card": lambda x: x + on_card(1, 2, 3, device="cuda:1"),
    "tensor of the CPU indexed by one of the card": lambda x: torch.ones(3)[x.long()],
    "assignment": lambda x: x.index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "choice by the CPU": lambda x: torch.where(torch.ones(3) > 0, x, x),
    "a layer of the CPU": lambda x: torch.nn.Linear(3, 2)(x),
    "random numbers": lambda x: torch.randn(3, device="cuda:0", generator=torch.Generator()),
}


@pytest.mark.parametrize("operation", REFUSED.values(), ids=REFUSED.keys())
def test_mixed_devices_are_refused(card, operation):
    with pytest.raises(WrongDevice):
        operation(on_card(1, 2, 3))


def test_scalars_and_indices_of_the_cpu_are_accepted(card):
    x = on_card(1, 2, 3)
    assert (x * torch.tensor(2.0))[torch.tensor([2, 0])].tolist() == [6, 2]
    x[torch.tensor([0])] = torch.tensor(5)
    assert x.tolist() == [5, 2, 3]


WAITS = {
    "item": lambda x: x[0].item(),
    "truth": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "boolean index": lambda x: x[x > 1],
    "copy into memory of the CPU": lambda x: torch.empty(3).copy_(x),
}


@pytest.mark.parametrize("operation", WAITS.values(), ids=WAITS.keys())
def test_each_wait_is_counted(card, operation):
    x = on_card(1, 2, 3)
    card.waits.clear()
    operation(x)
    assert card.waits.total() == 1


def test_numpy_is_refused(card):
    with pytest.raises(TypeError):
        on_card(1).numpy()


def test_gradients_reach_parameters_on_each_card(card):
    layer = torch.nn.Linear(3, 1)
    expected = torch.autograd.grad(layer(torch.ones(1, 3)).square().sum(), layer.weight)[0]
    for device in ("cuda:0", "cuda:1"):
        moved = torch.nn.Linear(3, 1).to(device)
        moved.load_state_dict(layer.state_dict())
        moved(torch.ones(1, 3, device=device)).square().sum().backward()
        assert moved.weight.grad.device == torch.device(device)
        torch.testing.assert_close(moved.weight.grad.cpu(), expected)


def test_layers_move_with_their_parameters(card):
    layer = torch.nn.BatchNorm1d(3).to("cuda:0")
    assert {x.device.type for x in layer.state_dict().values()} == {"cuda"}
    assert layer(torch.ones(2, 3, device="cuda:0")).device.type == "cuda"

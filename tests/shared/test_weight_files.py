"""Files of weights: containers, prefixes, and what is refused."""
import pytest
import torch

from mditface.mdit.shared.weight_files import check_finite, check_layout, read_state_dict, read_shapes

WEIGHTS = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}


def save(path, found):
    torch.save(found, path)
    return str(path)


@pytest.mark.parametrize("wrap", [lambda found: found, lambda found: {"model": found, "step": 3},
                                  lambda found: {"state_dict": found, "step": 3},
                                  lambda found: {"model": {"state_dict": found}, "step": 3}])
def test_containers_are_unwrapped(tmp_path, wrap):
    found = read_state_dict(save(tmp_path / "weights.pt", wrap(WEIGHTS)), "name")
    torch.testing.assert_close(found, WEIGHTS)


def test_prefixes_are_removed_and_other_objects_dropped(tmp_path):
    file = {f"module.net.{name}": weight for name, weight in WEIGHTS.items()} | {"epoch": 3}
    found = read_state_dict(save(tmp_path / "weights.pt", file), "name", ("module.", "net."))
    torch.testing.assert_close(found, WEIGHTS)


@pytest.mark.parametrize("found, message", [([1, 2], "holds a list, not weights"),
                                            ({"epoch": 3, "step": 4}, "holds no weights")])
def test_files_without_weights_are_refused(tmp_path, found, message):
    with pytest.raises(ValueError, match=f"^name: '.*weights.pt' .*{message}: take the original file"):
        read_state_dict(save(tmp_path / "weights.pt", found), "name")


def test_a_layout_that_fits():
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2)})
    check_layout(WEIGHTS, read_shapes(module), "file", "name")
    check_layout(WEIGHTS | {"b": torch.ones(1)}, read_shapes(module), "file", "name", allow_unknown=True)


def test_a_layout_that_does_not_fit_is_described():
    shapes = {"a.weight": (2, 4), "b": (1,), "c": (1,)}
    with pytest.raises(ValueError) as caught:
        check_layout(WEIGHTS, shapes, "file", "name")
    assert str(caught.value).startswith(
        "name: 'file' does not fit its model: missing [b, c], unknown [a.bias], of another shape [a.weight is (2, 3), "
        "must be (2, 4)]; ")


def test_long_lists_are_cut():
    with pytest.raises(ValueError, match=r"missing \[n0, n1, n2, n3 and 3 more\]"):
        check_layout({}, {f"n{i}": (1,) for i in range(7)}, "file", "name")


def test_numbers_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="name: 'file' holds NaN or infinite numbers in a.bias:"):
        check_finite(WEIGHTS | {"a.bias": torch.tensor([torch.inf, 0])}, "file", "name")

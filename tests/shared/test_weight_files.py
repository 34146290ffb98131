"""Files of weights: containers, prefixes, and what is refused."""
import pytest
import torch
from safetensors.torch import save_file

from mditface.mdit.shared.weight_files import (
    check_layout, check_finite, read_shapes, read_state_dict, read_weights, strip_wrappers)

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


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_fsdp_wrapped_module.{}"])
def test_what_torch_puts_around_a_network_is_taken_off_its_names(tmp_path, wrap):
    wrapped = {wrap.format(name): weight for name, weight in WEIGHTS.items()}
    torch.testing.assert_close(read_state_dict(save(tmp_path / "weights.pt", {"model": wrapped}), "name"), WEIGHTS)
    save_file(wrapped, tmp_path / "weights.safetensors", {"key": "value"})
    found, header = read_weights(str(tmp_path / "weights.safetensors"), "name")
    torch.testing.assert_close(found, WEIGHTS)
    assert header == {"key": "value"}


def test_a_part_of_a_network_may_be_wrapped():
    names = {"unet.module.a": "unet.a", "vae.b": "vae.b", "postfuse_module.c": "postfuse_module.c"}
    weights = {name: torch.ones(1) for name in names}
    assert list(strip_wrappers(weights)) == list(names.values())


def test_names_that_would_fall_together_stay():
    both = {"a": torch.ones(1), "module.a": torch.zeros(1)}
    assert strip_wrappers(both) is both


@pytest.mark.parametrize("found, message", [([1, 2], "holds a list, not weights"),
                                            ({"epoch": 3, "step": 4}, "holds no weights with names")])
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

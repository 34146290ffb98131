"""Tiny models of both objectives; the imports stand in the fixtures, since pytest reads this file before the pack."""
import pytest


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    from mditface.tests.mmface import tiny
    return tiny.write(tmp_path_factory.mktemp("mmface") / "tiny.safetensors")


def load(file, objective):
    import torch
    from mditface.mdit.mmface import host
    return host.load_mmface(file, torch.float32, objective)


@pytest.fixture(scope="module", params=["flow", "diffusion"])
def loaded(request, file):
    return load(file, request.param)


@pytest.fixture(scope="module")
def flow(file):
    return load(file, "flow")

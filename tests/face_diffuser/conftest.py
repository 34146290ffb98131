"""Tests of the fusion of two models run as the host runs nodes."""
import pytest


@pytest.fixture(scope="module", autouse=True)
def as_the_host_runs_nodes():
    import torch
    with torch.inference_mode():
        yield

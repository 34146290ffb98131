"""Functions and wrappers of other nodes, and batches that they split, on a model that follows interactions."""
import pytest
import torch

from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from mditface.mdit.interactdiffusion.patch import apply_interactions
from mditface.tests.interactdiffusion import tiny
from mditface.tests.interactdiffusion.test_sampling import ALWAYS, CLOSE, EFFECT, reference, run
from mditface.tests.shared import hooks

BATCH = (4, 4, 8, 12)


@pytest.fixture(scope="module")
def given():
    return tiny.encoded(tiny.FEEDING, tiny.HOLDING)


@pytest.mark.parametrize("hook", hooks.ALL.values(), ids=hooks.ALL.keys())
def test_every_hook_acts_as_on_the_plain_fusers(base, weights, given, hook):
    expected = run(hook(reference(base, weights, given)[0]))
    found = run(hook(apply_interactions(base, weights, given, ALWAYS)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-3)


def windows(dim: int, length: int):
    return lambda model: ContextWindowsManualNode.execute(model, length, 1, "standard_static", 1, False, "flat", dim,
                                                          False).result[0]


SPLITS = {"row by row": hooks.split_rows(lambda n: [[i] for i in range(n)]),
          "mixed": hooks.split_rows(lambda n: [list(range(0, n, 2)), list(range(1, n, 2))]), "windows": windows(0, 2)}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS.keys())
def test_a_split_batch(base, weights, given, split):
    model = apply_interactions(base, weights, given, ALWAYS)
    expected = run(model, latent=BATCH)
    torch.testing.assert_close(run(split(model), latent=BATCH), expected, **CLOSE)
    assert (run(base, latent=BATCH) - expected).abs().max() > EFFECT


def test_splits_that_cannot_be_followed_are_refused(base, weights, given):
    model = apply_interactions(base, weights, given, ALWAYS)
    inside = model.clone()
    inside.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "foreign", lambda executor, x, t, context, *args, **kwargs:
                                torch.cat([executor(x[i:i + 1], t[i:i + 1], context[i:i + 1], *args, **kwargs)
                                           for i in range(len(x))]))
    with pytest.raises(ValueError, match="model: another node changes the batch from 2 to 1 rows inside the network"):
        run(inside)
    halves = model.clone()
    halves.set_model_unet_function_wrapper(lambda apply, args: torch.cat(
        [apply(x, args["timestep"][:1], **{**args["c"], "c_crossattn": args["c"]["c_crossattn"][:1]})
         for x in args["input"].chunk(2)]))
    with pytest.raises(ValueError, match="model: another node splits the batch into 1 rows"):
        run(halves)
    with pytest.raises(ValueError, match="context windows over height"):
        run(windows(3, 8)(model))

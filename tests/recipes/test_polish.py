"""Training of a finished model's decoder, on a tiny scale."""
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mditface.mdit.mditface import host
from mditface.mdit.recipes.targets.kinds import DemoSettings, DemoTarget, PolishSettings, PolishTarget
from mditface.mdit.recipes.targets.polish import redraw_latents
from mditface.tests.recipes.tiny_targets import DEMO, LATENT, POLISH
from mditface.tests.training.tiny_targets import fitted

pytestmark = pytest.mark.usefixtures("in_training")


@pytest.fixture
def polish_paths(latent_paths, tmp_path):
    """Paths of a run that polishes a finished model."""
    model = tmp_path / "model.safetensors"
    target = DemoTarget(DemoSettings(**DEMO | {"model": LATENT}, **latent_paths))
    target.save(model, target.module.state_dict())
    return {name: path for name, path in latent_paths.items() if name != "autoencoder"} | {"model": model}


def test_the_decoder_alone_changes_and_the_file_loads(polish_paths):
    fitted(PolishTarget(PolishSettings(**POLISH, **polish_paths)))
    before, after = load_file(polish_paths["model"]), load_file(polish_paths["weights"])
    changed = {name for name, w in after.items() if not torch.equal(w, before[name])}
    assert changed == {name for name in before if name.startswith("vae.decoder.")}
    with safe_open(polish_paths["model"], "pt") as old, safe_open(polish_paths["weights"], "pt") as new:
        assert old.metadata() == new.metadata()
    loaded = host.load_mdit(str(polish_paths["weights"]))
    assert loaded.vae.decode(torch.zeros(1, 12, 2, 2)).shape == (1, 32, 32, 3)


def test_it_learns(polish_paths):
    faster = {"steps": 40, "ema": 0.0, "perceptual": 0.0, "optimiser": {"adamw": 0.02}}
    target = PolishTarget(PolishSettings(**POLISH | faster, **polish_paths))

    def measure_loss():
        with torch.no_grad():
            return sum(target.module(**target.make_batch(0, 0, 1), rng=torch.Generator()).values()).item()

    before = measure_loss()
    fitted(target)
    assert measure_loss() < 0.9 * before
    assert target.measure().keys() == {"psnr", "psnr/redrawn"} and target.draw_sheet().shape == (64, 192, 3)


def test_a_break_changes_nothing(polish_paths, tmp_path, monkeypatch):
    whole = fitted(PolishTarget(PolishSettings(**POLISH, **polish_paths)))
    halves = polish_paths | {"output": tmp_path / "halves", "weights": tmp_path / "halves.safetensors"}
    fitted(PolishTarget(PolishSettings(**POLISH, **halves)), stop=2)
    monkeypatch.setattr("mditface.mdit.recipes.targets.polish.redraw_latents",
                        lambda *given, **options: pytest.fail("drawn again"))
    second = fitted(PolishTarget(PolishSettings(**POLISH, **halves)))
    assert whole.step == second.step == 4
    once, twice = load_file(polish_paths["weights"]), load_file(halves["weights"])
    assert all(torch.equal(w, twice[name]) for name, w in once.items())


def test_crops_of_latents_and_images_show_the_same_place(polish_paths):
    target = PolishTarget(PolishSettings(**POLISH | {"clean": 0.99}, **polish_paths))
    target.settings = target.settings.model_copy(update={"crop": 16})
    target.latents[:] = target.module.autoencoder.encode(
        target.faces.get_batch(torch.arange(12), 32)[0].float() / 127.5 - 1).detach()
    batch = target.make_batch(0, 0, 1)
    alone = target.module.autoencoder.encode(batch["images"].float() / 127.5 - 1)
    assert batch["latents"].shape == alone.shape == (4, 12, 1, 1)
    for mine in range(4):
        near = (batch["latents"][mine] - alone).square().sum((1, 2, 3)).argmin()
        assert near == mine


def test_little_noise_redraws_much_the_same(polish_paths):
    """The level decides how much of the latents is noise."""
    target = PolishTarget(PolishSettings(**POLISH, **polish_paths))
    clean = torch.randn(2, 12, 2, 2)
    maps = torch.zeros(2, 32, 32)

    class Still(torch.nn.Linear):
        model = text_encoder = None

    def distance(level):
        settings = target.settings.model_copy(update={"level": level})
        return (redraw_latents(Still(1, 1), maps, maps, clean, settings=settings, number=0) - clean).abs().mean()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mditface.mdit.recipes.targets.polish.make_guided_velocity",
                      lambda *given: lambda x, sigma: torch.zeros_like(x))
        assert distance(0.1) < 0.3 * distance(0.5)


def test_an_absent_model_is_named(paths, tmp_path):
    with pytest.raises(FileNotFoundError, match="demo-latent.yaml"):
        PolishTarget(PolishSettings(**POLISH, **paths, model=tmp_path / "none.safetensors"))

"""The curve of a run's loss, as an image."""
from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

SIZE = (768, 448)  # pixels
LEFT = 72  # this and the next: sides of the plot in the image, in pixels
TOP = 40
RIGHT = 744
BOTTOM = 400
TEXT = 15  # height in pixels
PAPER = "#ffffff"
GRID = "#e8e8e8"
INK = "#404040"
PALE = "#c6d8ee"  # the loss of each step
LINE = "#1f5fa8"  # the running mean
TICKS = 5


def draw_loss_curve(losses: list[float]) -> Image.Image:
    """The loss of each step, and its running mean over about a twentieth of the run."""
    image = Image.new("RGB", SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(TEXT)
    low = min(losses)
    high = max(losses)
    high = high if high > low else low + 1
    last = max(1, len(losses) - 1)

    def point(fraction: float, loss: float) -> tuple[float, float]:
        """Pixel of a fraction of the run and a loss."""
        x = LEFT + fraction * (RIGHT - LEFT)
        return x, BOTTOM - (loss - low) / (high - low) * (BOTTOM - TOP)

    ticks = [i / (TICKS - 1) for i in range(TICKS)]
    for loss in (low + tick * (high - low) for tick in ticks):
        _, y = point(0, loss)
        draw.line([(LEFT, y), (RIGHT, y)], GRID)
        draw.text((LEFT - 8, y), f"{loss:.3g}", INK, font, anchor="rm")
    for step in sorted({round(tick * last) for tick in ticks}):
        x, _ = point(step / last, low)
        draw.text((x, BOTTOM + 8), str(step + 1), INK, font, anchor="mt")
    draw.text(((LEFT + RIGHT) / 2, SIZE[1] - 6), "step", INK, font, anchor="mb")
    draw.text((LEFT - 8, 6), "loss", INK, font, anchor="rt")
    for values, color, width in ((losses, PALE, 1), (compute_running_mean(losses), LINE, 3)):
        points = [point(i / last, value) for i, value in enumerate(values)]
        draw.line(points * 2 if len(points) == 1 else points, color, width, joint="curve")
    return image


def compute_running_mean(values: list[float]) -> list[float]:
    """The exponential mean, without a bias towards zero at the start."""
    keep = 1 - 1 / max(1, len(values) / 20)
    mean = 0.0
    weight = 0.0
    means = []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + 1 - keep
        means.append(mean / weight)
    return means

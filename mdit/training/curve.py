"""The picture of a run's loss."""
from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

SIZE, MARGIN, TEXT = (768, 448), (72, 40, 24, 48), 15  # pixels; left, top, right, bottom
PAPER, GRID, INK, PALE, LINE = "#ffffff", "#e8e8e8", "#404040", "#c6d8ee", "#1f5fa8"
TICKS = 5


def loss_curve(losses: list[float]) -> Image.Image:
    """The loss of each step, pale, with its running mean over about a twentieth of the run."""
    picture = Image.new("RGB", SIZE, PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    left, top, right, bottom = MARGIN[0], MARGIN[1], SIZE[0] - MARGIN[2], SIZE[1] - MARGIN[3]
    low, high = min(losses), max(losses)
    high = high if high > low else low + 1

    def place(share: float, loss: float) -> tuple[float, float]:
        return left + share * (right - left), bottom - (loss - low) / (high - low) * (bottom - top)

    last = max(1, len(losses) - 1)
    shares = [i / (TICKS - 1) for i in range(TICKS)]
    for loss in (low + share * (high - low) for share in shares):
        _, y = place(0, loss)
        draw.line([(left, y), (right, y)], GRID)
        draw.text((left - 8, y), f"{loss:.3g}", INK, font, anchor="rm")
    for step in sorted({round(share * last) for share in shares}):
        x, _ = place(step / last, low)
        draw.text((x, bottom + 8), str(step + 1), INK, font, anchor="mt")
    draw.text(((left + right) / 2, SIZE[1] - 6), "step", INK, font, anchor="mb")
    draw.text((left - 8, 6), "loss", INK, font, anchor="rt")
    for values, colour, width in ((losses, PALE, 1), (running_mean(losses), LINE, 3)):
        points = [place(i / last, value) for i, value in enumerate(values)]
        draw.line(points * 2 if len(points) == 1 else points, colour, width, joint="curve")
    return picture


def running_mean(values: list[float]) -> list[float]:
    """Exponential, without a bias towards zero at the start."""
    keep = 1 - 1 / max(1, len(values) / 20)
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + 1 - keep
        means.append(mean / weight)
    return means

"""The shipped net makes the built-in world's pictures larger, and better than Lanczos does."""

import random
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops, ImageStat
from safetensors.torch import load_file

from runner.engine.entries import TINY_UPSCALER
from runner.engine.pictures import upscaling
from runner.engine.tiny.folders import UPSCALER, WEIGHTS
from tests.engine.tiny.evaluate import Pipelines, decibels, measure_upscale
from tests.engine.tiny.render import arrange, as_image, as_levels, offsets, render
from tests.engine.tiny.test_meaning import ASKED, SEEDS, true_picture
from tests.engine.tiny.upscaling import draw_pool, train_upscaler
from tests.engine.tiny.vae import build_vae
from tests.engine.tiny.world import PALETTE, draw_unseen_scene

MARGIN = {"true pictures": 4.0, "codec round trip": 2.0}
"""Decibels above Lanczos that the net must have; measured are about half as many again."""


@pytest.mark.parametrize("source", MARGIN)
@pytest.mark.parametrize("times", [2, 4])
def test_pictures_that_were_not_trained_on_come_out_better_than_by_lanczos(
    times: int, source: str, figures: dict[str, dict[str, float]]
) -> None:
    """Seen red: with the net's last layer zeroed, which doubles pixels."""
    found = figures[f"upscale {times}, {source}"]
    assert found["net_decibels"] > found["lanczos_decibels"] + MARGIN[source], found
    assert found["better"] == 1.0


@pytest.fixture(scope="module")
def figures(pipelines: Pipelines) -> dict[str, dict[str, float]]:
    return measure_upscale(pipelines, 16, 3)


def test_what_the_model_draws_is_nearer_to_the_large_truth_than_by_lanczos(
    pipelines: Pipelines,
) -> None:
    """Its things lie up to a pixel off, so that neither is near: only where they agree is told."""
    net, gains = pipelines.upscaler(), []
    for prompt, seed in ((prompt, seed) for prompt in ASKED for seed in SEEDS):
        small = pipelines.text2img(prompt, seed)
        large = upscaling.upscaled(small, net, 2, "cpu", lambda *_: None)
        plain = small.resize(large.size, Image.Resampling.LANCZOS)
        gains.append(colours_off(plain) - colours_off(large))
    assert sum(gain > 0 for gain in gains) >= 10, gains
    assert true_picture(next(iter(ASKED.values()))).shape == (3, 64, 64)


def colours_off(picture: Image.Image) -> float:
    """The mean distance of pixels from the nearest colour of the palette: soft edges have it."""
    palette = torch.tensor(list(PALETTE.values())).float()
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(-1, 3).float()
    return float(torch.cdist(data, palette).amin(1).mean())


def test_the_edges_of_a_picture_are_as_good_as_its_middle(pipelines: Pipelines) -> None:
    net, rng = pipelines.upscaler(), random.Random("edges")
    strips: dict[tuple[int, ...], list[float]] = {(0, 0, 128, 3): [], (0, 62, 128, 65): []}
    for _ in range(30):
        scenes = [draw_unseen_scene(rng)]
        drawing = arrange(scenes, offsets(rng, scenes))
        small, wanted = as_image(render(drawing)[0]), as_image(render(drawing, 2)[0])
        large = upscaling.upscaled(small, net, 2, "cpu", lambda *_: None)
        for strip, found in strips.items():
            off = ImageChops.difference(large.crop(strip), wanted.crop(strip))  # type: ignore[arg-type]
            found.append(sum(ImageStat.Stat(off).mean) / 3)
    edge, middle = (sum(found) / len(found) for found in strips.values())
    assert edge <= middle and edge < 1, (edge, middle)


def test_a_flat_picture_stays_flat(pipelines: Pipelines) -> None:
    for colour in PALETTE.values():
        flat = Image.new("RGB", (64, 64), colour)
        made = upscaling.upscaled(flat, pipelines.upscaler(), 4, "cpu", lambda *_: None)
        assert decibels(made, Image.new("RGB", made.size, colour)) > 42, colour


def test_the_shipped_net_is_small_and_its_file_is_like_published_ones() -> None:
    tensors = load_file(WEIGHTS / UPSCALER)
    assert sum(tensor.numel() for tensor in tensors.values()) <= 32_000
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert all(name.startswith("body.") for name in tensors)
    assert (WEIGHTS / UPSCALER).stat().st_size <= 70_000
    assert Path(TINY_UPSCALER.repo, TINY_UPSCALER.file) == WEIGHTS / UPSCALER
    assert upscaling.of(TINY_UPSCALER, WEIGHTS / UPSCALER).scale == TINY_UPSCALER.scale == 2


def test_a_drawing_of_twice_the_size_is_the_same_drawing() -> None:
    scene = next(iter(ASKED.values()))
    drawing = arrange([scene], [[(0.3, -0.2)] * len(scene.things)])
    large = render(drawing, 4)
    assert large.shape == (1, 3, 256, 256)
    averaged = torch.nn.functional.avg_pool2d(large, 4)
    assert float((averaged - render(drawing)).abs().mean()) < 0.01
    assert as_levels(as_image(averaged[0])).shape == (3, 64, 64)


def test_a_training_goes_on_where_it_stopped_and_draws_pairs_of_both_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.engine.tiny.upscaling._POOL", 128)
    torch.manual_seed(0)
    codec = build_vae()
    small, large = draw_pool(codec, 1)
    assert (small.shape[1:], large.shape[1:]) == ((3, 64, 64), (3, 128, 128))
    assert len(small) == len(large) == 128
    assert all(map(torch.equal, (small, large), draw_pool(codec, 1)))
    monkeypatch.setattr("tests.engine.tiny.upscaling.draw_pool", lambda *_: (small, large))
    device = torch.device("cpu")
    train_upscaler(codec, tmp_path / "net.pt", 1, 1, device)
    kept = torch.load(tmp_path / "net.pt", weights_only=True)
    assert kept["step"] == 1
    again = train_upscaler(codec, tmp_path / "net.pt", 2, 1, device)
    assert torch.load(tmp_path / "net.pt", weights_only=True)["step"] == 2
    assert again.scale == 2
    once = train_upscaler(codec, tmp_path / "whole.pt", 2, 1, device)
    first, second = once.body.state_dict(), again.body.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)

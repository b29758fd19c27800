"""A picture is enlarged in tiles as it would be at once, by the net that a file's tensors tell."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from runner.engine.models import Upscaler
from runner.engine.pictures import upscaling
from runner.engine.pictures.upscaling import Net, build, net_of, of, tiled, upscaled
from runner.errors import ModelMissing, OutOfMemory


def random_net(scale: int, width: int = 8, convolutions: int = 5) -> Net:
    torch.manual_seed(scale)
    return net_of(build(width, convolutions, scale).body.state_dict())


def tensors_of(net: Net) -> dict[str, Any]:
    return {f"body.{name}": tensor for name, tensor in net.body.state_dict().items()}


def load(file: Path) -> Net:
    """The net of a file of one's own."""
    return of(Upscaler(file.name, str(file.parent), file.name, ""), file)


def picture(width: int = 70, height: int = 50) -> Any:
    return Image.effect_noise((width, height), 90).convert("RGB")


def ignore(*given: object) -> None:
    pass


@pytest.mark.parametrize("tile", [16, 23, 64])
@pytest.mark.parametrize(("scale", "times"), [(2, 2), (4, 4), (4, 2)])
def test_tiles_are_equal_to_the_whole_picture(scale: int, times: int, tile: int) -> None:
    """Seen red: with an overlap of one pixel less than the net reaches."""
    net = random_net(scale)
    pixels = torch.rand(3, 50, 71)
    counted: list[None] = []
    made = tiled(pixels, net, "cpu", times, lambda: counted.append(None), tile)
    whole = tiled(pixels, net, "cpu", times, ignore, 1000)
    assert made.shape == (3, 50 * times, 71 * times)
    assert float((made - whole).abs().max()) < 1e-6
    assert len(counted) == -(-50 // tile) * -(-71 // tile)


def test_a_pixel_reaches_no_farther_than_the_overlap_and_does_reach_so_far() -> None:
    net = random_net(2)
    pixels = torch.rand(1, 3, 40, 40)
    other = pixels.clone()
    other[..., 20, 20] += 0.5
    with torch.no_grad():
        changed = (net(pixels) - net(other)).abs().amax((0, 1)) > 0
    rows = changed.any(1).nonzero().flatten() // 2
    assert (int(rows.min()), int(rows.max())) == (20 - net.reach, 20 + net.reach)


def test_a_net_of_2_is_used_twice_for_4_and_what_one_of_4_makes_is_halved_for_2() -> None:
    small = picture(20, 10)
    two, four = random_net(2), random_net(4)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    twice = tiled(tiled(pixels, two, "cpu", 2, ignore), two, "cpu", 2, ignore)
    assert upscaled(small, two, 4, "cpu", ignore).tobytes() == as_bytes(twice)
    with torch.no_grad():
        halved = torch.nn.functional.avg_pool2d(four(pixels[None]).clamp(0, 1), 2)[0]
    assert upscaled(small, four, 2, "cpu", ignore).tobytes() == as_bytes(halved)


def as_bytes(pixels: Any) -> bytes:
    levels = (pixels * 255).round().byte().permute(1, 2, 0).contiguous()
    return bytes(levels.numpy().tobytes())


def test_a_net_of_nothing_but_zeros_doubles_every_pixel() -> None:
    net = random_net(2)
    for tensor in net.body.state_dict().values():
        tensor.zero_()
    small = picture(12, 9)
    wanted = small.resize((24, 18), Image.Resampling.NEAREST)
    assert upscaled(small, net, 2, "cpu", ignore).tobytes() == wanted.tobytes()


def test_tiles_of_all_passes_are_counted_before_each_and_one_may_stop_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upscaling, "TILE", 16)
    monkeypatch.setattr(tiled, "__defaults__", (16,))
    net, told = random_net(2), []

    def on_tile(done: int, tiles: int) -> None:
        told.append((done, tiles))

    upscaled(picture(20, 16), net, 4, "cpu", on_tile)
    assert told == [(done, 2 + 6) for done in range(8)]

    class Stop(Exception):
        pass

    def stop(done: int, tiles: int) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        upscaled(picture(20, 16), net, 4, "cpu", stop)


def test_the_net_is_on_the_device_for_one_picture_only_and_a_full_device_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, places = random_net(2), []
    monkeypatch.setattr(net.body, "to", lambda place: places.append(place) or net.body)
    upscaled(picture(), net, 2, "cpu", ignore)
    assert places == ["cpu", "cpu"]

    def full(pixels: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(net.body, "forward", full)
    with pytest.raises(OutOfMemory):
        upscaled(picture(), net, 2, "meta", ignore)
    assert places[2:] == ["meta", "cpu"]


@pytest.mark.parametrize("key", ["", "params", "params_ema"])
def test_the_layout_is_read_from_the_tensors_of_a_pickle(key: str, tmp_path: Path) -> None:
    net = random_net(4, width=12, convolutions=4)
    kept = tensors_of(net)
    torch.save({key: kept} if key else kept, tmp_path / "net.pth")
    read = load(tmp_path / "net.pth")
    assert (read.scale, read.reach, len(read.facts["sha256"])) == (4, 4, 64)
    small = picture()
    assert same(upscaled(small, read, 4, "cpu", ignore), upscaled(small, net, 4, "cpu", ignore))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def test_half_precision_in_safetensors_is_read_as_single(tmp_path: Path) -> None:
    halved = {name: tensor.half() for name, tensor in tensors_of(random_net(2)).items()}
    save_file(halved, tmp_path / "net.safetensors")
    read = load(tmp_path / "net.safetensors")
    assert {tensor.dtype for tensor in read.body.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("convolutions", "parameters"), [(18, 621_424), (34, 1_213_296)], ids=["anime", "general"]
)
def test_the_published_nets_have_this_layout(convolutions: int, parameters: int) -> None:
    """64 channels, 4×: realesr-animevideov3 and realesr-general-x4v3."""
    with torch.device("meta"):
        body = build(64, convolutions, 4).body
    assert sum(weight.numel() for weight in body.parameters()) == parameters
    assert list(body.state_dict())[:3] == ["0.weight", "0.bias", "1.weight"]


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def damaged(name: str, tmp_path: Path) -> Path:
    """A file that is no net."""
    file = tmp_path / "net.pth"
    kept = tensors_of(random_net(2))
    if name == "empty":
        file.write_bytes(b"")
    elif name == "cut short":
        torch.save(kept, file)
        file.write_bytes(file.read_bytes()[:-400])
    elif name == "code":
        file.write_bytes(pickle.dumps(Malicious(tmp_path / "made")))
    elif name == "a list":
        torch.save([1, 2], file)
    elif name == "another net":
        torch.save({"conv_first.weight": torch.zeros(64, 3, 3, 3)}, file)
    elif name == "a net of 3×":
        torch.save(tensors_of(Net(build(8, 3, 3).body, 3, 3)), file)
    elif name == "no numbers":
        torch.save({**kept, "body.0.bias": torch.full((8,), float("nan"))}, file)
    elif name == "one tensor more":
        torch.save({**kept, "body.99.weight": torch.zeros(4)}, file)
    elif name == "one tensor less":
        torch.save({key: part for key, part in kept.items() if key != "body.3.weight"}, file)
    elif name == "text as safetensors":
        file = tmp_path / "net.safetensors"
        file.write_text("no", encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "name",
    ["absent", "empty", "cut short", "code", "a list", "another net", "a net of 3×",
     "no numbers", "one tensor more", "one tensor less", "text as safetensors"],
)  # fmt: skip
def test_what_is_no_such_net_is_refused_and_runs_no_code(name: str, tmp_path: Path) -> None:
    """Seen red: with `weights_only=False` the code made its folder."""
    with pytest.raises(ModelMissing, match="^net"):
        load(damaged(name, tmp_path))
    assert not (tmp_path / "made").exists()


def test_another_file_of_the_same_name_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    hashes = set()
    for scale in (2, 4):
        torch.save(tensors_of(random_net(scale)), file)
        assert load(file).scale == scale
        hashes.add(load(file).facts["sha256"])
    assert len(hashes) == 2
    assert load(file) is load(file)
    upscaling.release()
    assert upscaling._load.cache_info().currsize == 0


def test_reading_a_net_draws_no_random_number(tmp_path: Path) -> None:
    torch.save(tensors_of(random_net(2)), tmp_path / "net.pth")
    torch.manual_seed(5)
    load(tmp_path / "net.pth")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)

"""The training of the built-in model: its arithmetic is the pipelines', and it can be stopped."""

import random
from pathlib import Path

import pytest
import torch
from diffusers import FluxFillPipeline, FluxPipeline

from tests.engine.tiny import training
from tests.engine.tiny.edges import canny_of, draw_edges, outlines
from tests.engine.tiny.encoders import Reader, build_clip, build_t5
from tests.engine.tiny.loop import Optimizers, Progress, orthogonalised, schedule
from tests.engine.tiny.render import arrange, masks_of, offsets, render
from tests.engine.tiny.tokenizers import build_clip_tokenizer, build_t5_tokenizer
from tests.engine.tiny.training import Frozen, Pool, train_transformer
from tests.engine.tiny.transformer import (
    IN_CHANNELS,
    build_transformer,
    image_ids,
    pack,
    pack_mask,
    widened,
)
from tests.engine.tiny.vae import build_vae
from tests.engine.tiny.world import draw_scene


@pytest.fixture(scope="module")
def frozen() -> Frozen:
    """Untrained components: enough to see that a training runs."""
    torch.manual_seed(0)
    t5, clip = build_t5_tokenizer(), build_clip_tokenizer()
    vae = build_vae()
    vae.register_to_config(shift_factor=0.1, scaling_factor=0.5)
    parts = Frozen(vae, build_t5(t5), build_clip(clip), Reader(t5, clip))
    return parts.to(torch.device("cpu"))


def test_latents_are_packed_as_the_pipelines_pack_them() -> None:
    latents = torch.randn(2, 16, 8, 8)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 16, 8, 8))


def test_positions_are_the_pipelines_positions() -> None:
    wanted = FluxPipeline._prepare_latent_image_ids(1, 4, 4, torch.device("cpu"), torch.float32)
    ids = image_ids(torch.device("cpu"), source=True)
    assert torch.equal(ids[:16], wanted)
    assert torch.equal(ids[16:, 1:], wanted[:, 1:]) and (ids[16:, 0] == 1).all()


def test_masks_are_packed_as_the_fill_pipeline_packs_them(frozen: Frozen) -> None:
    pipeline = FluxFillPipeline(None, frozen.vae, None, None, None, None, None)
    mask = (torch.rand(1, 1, 64, 64) > 0.5).float()
    wanted, _ = pipeline.prepare_mask_latents(
        mask, torch.zeros(1, 3, 64, 64), 1, 16, 1, 64, 64, torch.float32, torch.device("cpu"), None
    )
    assert torch.equal(pack_mask(mask), wanted)


@pytest.mark.parametrize("kind", ["kontext", "fill", "control"])
def test_a_kind_starts_as_the_base_and_ignores_its_condition_at_first(kind: str) -> None:
    torch.manual_seed(0)
    base = build_transformer("text2img")
    torch.nn.init.normal_(base.proj_out.weight)
    model = widened(base, kind)
    hidden = torch.randn(1, 16, IN_CHANNELS[kind])
    given = {
        "encoder_hidden_states": torch.randn(1, 8, 128),
        "pooled_projections": torch.randn(1, 128),
        "timestep": torch.tensor([0.5]),
        "guidance": torch.tensor([3.5]),
        "img_ids": image_ids(torch.device("cpu"), source=False),
        "txt_ids": torch.zeros(8, 3),
    }
    with torch.no_grad():
        told = model(hidden_states=hidden, **given).sample
        plain = base(hidden_states=hidden[..., :64], **given).sample
    assert torch.allclose(told, plain, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # slower, not wrong
@pytest.mark.parametrize("kind", ["kontext", "fill"])
def test_a_training_goes_on_where_it_stopped(
    kind: str, frozen: Frozen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(Pool.__init__, "__defaults__", (16,))
    checkpoint = tmp_path / "kind.pt"
    model = build_transformer(kind)
    train_transformer(kind, model, frozen, checkpoint, 1, 1, 1e-3)
    assert model.proj_out.weight.abs().sum() > 0
    kept = torch.load(checkpoint, weights_only=True)
    assert kept["step"] == 1
    again = build_transformer(kind)
    train_transformer(kind, again, frozen, checkpoint, 1, 1, 1e-3)
    assert torch.equal(again.proj_out.weight, model.proj_out.weight)
    train_transformer(kind, again, frozen, checkpoint, 2, 1, 1e-3)
    assert not torch.equal(again.proj_out.weight, model.proj_out.weight)
    assert torch.load(checkpoint, weights_only=True)["step"] == 2


def test_steps_count_on_from_a_checkpoint_and_stop_at_the_limit(tmp_path: Path) -> None:
    def begin(limit: int) -> Progress:
        model = torch.nn.Linear(4, 4)
        return Progress("x", tmp_path / "x.pt", limit, model, Optimizers(model, 1e-3))

    assert [step for step, _ in begin(3).steps()] == [0, 1, 2]
    assert [step for step, _ in begin(5).steps()] == [3, 4]
    assert begin(5).over and list(begin(5).steps()) == []


def test_the_learning_rate_is_flat_and_then_falls() -> None:
    assert schedule(0.0) == schedule(0.5) == 1.0
    assert schedule(0.6) > schedule(0.8) > schedule(1.0) == pytest.approx(0.01)


def test_muon_steps_are_nearly_orthogonal() -> None:
    made = orthogonalised(torch.randn(3, 16, 40), steps=6)
    sizes = torch.linalg.svdvals(made)
    assert 0.5 < float(sizes.min()) and float(sizes.max()) < 1.4


def test_outlines_are_thin_and_canny_lies_on_them() -> None:
    rng = random.Random(0)
    scenes = [draw_scene(rng) for _ in range(20)]
    drawing = arrange(scenes, offsets(rng, scenes))
    masks, pictures = masks_of(drawing), render(drawing)
    traced = outlines(masks)
    for line, picture in zip(traced, pictures, strict=True):
        near = torch.nn.functional.max_pool2d(line.float(), 3, 1, 1)[0] > 0
        edges = canny_of(picture)[0] > 0
        assert 0.5 < float(edges.sum()) / float(line.sum()) < 2
        assert float((edges & near).sum()) / float(edges.sum()) > 0.95
    maps = draw_edges(rng, masks, pictures)
    assert set(maps.unique().tolist()) == {-1.0, 1.0}
    assert 0.005 < float((maps > 0).float().mean()) < 0.15

"""A Depth Anything twin: the estimator's own classes with random weights, in a folder."""

from __future__ import annotations

import json
from pathlib import Path

from tests.twins.pieces import seeded


def folder(target: Path) -> Path:
    """The folder of an estimator: settings, weights, and how pictures are prepared for it."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    eyes = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = DepthAnythingConfig(
        backbone_config=eyes,
        reassemble_hidden_size=32,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    seeded("depth", lambda: DepthAnythingForDepthEstimation(config)).save_pretrained(target)
    prepared = {
        "image_processor_type": "DPTImageProcessor",
        "do_normalize": True,
        "do_resize": True,
        "do_rescale": True,
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "resample": 3,
        "size": {"height": 56, "width": 56},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (target / "preprocessor_config.json").write_text(json.dumps(prepared), encoding="utf-8")
    return target

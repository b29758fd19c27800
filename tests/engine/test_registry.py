"""What intake asks of the registry: problems, defaults, tasks, warnings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.engine.models import MODEL_REGISTRY, Sizes
from runner.engine.registry import KINDS, default_model, problems, realise, warnings
from runner.job import InputImage


def paths(**spec: Any) -> list[str]:
    return [path for path, _ in problems(spec)]


def message(**spec: Any) -> str:
    ((_, text),) = problems(spec)
    return text


@pytest.mark.parametrize(
    "code",
    [
        "import runner.engine.registry, runner.engine.hub",
        # An executor with nothing to do, started, emptied and closed.
        "import pathlib, runner.engine.gpu_thread as g\n"
        "e = g.GpuThread(pathlib.Path('.')); e.release(); e.stop('gpu0'); e.close()",
    ],
)
def test_none_of_the_heavy_libraries_is_imported_before_there_is_work(code: str) -> None:
    code += (
        "\nimport sys\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy', 'PIL', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_model_serves_kinds_that_exist_with_a_family_they_know() -> None:
    for model in MODEL_REGISTRY.values():
        for name, serving in model.serves.items():
            assert model.family in KINDS[name].arguments
            assert (serving.prior is None) == (model.family not in KINDS[name].prior)


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_model_of_a_kind_serves_it(kind: str) -> None:
    assert kind in MODEL_REGISTRY[default_model({"kind": kind})].serves


def test_the_spec_beats_the_settings_and_they_beat_the_default() -> None:
    settings = {"text2img": "krea"}
    assert default_model({"kind": "text2img", "model": "dev"}, settings) == "dev"
    assert default_model({"kind": "text2img"}, settings) == "krea"
    assert default_model({"kind": "text2img"}) == "schnell"
    assert default_model({"kind": "control", "control": "depth"}) == "depth"


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    assert "did you mean schnell?" in message(kind="text2img", model="schnel")


def test_a_kind_that_a_model_cannot_do_is_answered_with_the_models_that_can() -> None:
    assert message(kind="fill", model="dev") == "dev cannot do fill; tiny and fill-dev can"


def test_tiny_makes_only_its_own_size() -> None:
    assert message(kind="text2img", model="tiny", width=128, height=64) == "tiny makes only 64×64"
    assert paths(kind="text2img", model="tiny", width=64) == []


@pytest.mark.parametrize(
    ("width", "height"), [(1000, 1024), (32, 1024), (8192, 1024), (4096, 2048)]
)
def test_sizes_outside_of_the_model_are_refused(width: int, height: int) -> None:
    assert paths(kind="text2img", model="dev", width=width, height=height) == ["width"]


def test_several_pictures_and_weights_are_refused_where_one_plain_one_is_read() -> None:
    image = [{"path": "a.png", "weight": 0.5}, "b.png"]
    assert paths(kind="kontext", model="tiny", image=image) == ["image", "image[0].weight"]
    assert paths(kind="redux", model="tiny", image=image) == []
    assert paths(kind="fill", model="tiny", image={"path": "a.png", "weight": 1}) == [
        "image.weight"
    ]


def test_control_maps_that_a_model_does_not_follow_are_refused() -> None:
    text = message(kind="control", model="tiny", control="depth", image="a.png")
    assert text == "tiny follows canny, not depth; depth can"


def test_depth_needs_a_ready_map_for_now() -> None:
    assert paths(kind="control", control="depth", image="a.png") == ["preprocessed"]
    assert paths(kind="control", control="depth", image="a.png", preprocessed=True) == []


def test_precision_guidance_and_loras_that_a_model_lacks_are_refused_together() -> None:
    spec = {"kind": "text2img", "model": "schnell", "precision": "nf4", "guidance": 3.5}
    assert paths(**spec, loras=[{"path": "x.safetensors"}]) == ["precision", "guidance", "loras"]


def test_every_value_of_a_matrix_is_looked_at() -> None:
    matrix = {"model": ["tiny", "dev", "nope"], "width": [64, 128], "prompt": ["a", "b"]}
    found = problems({"kind": "text2img", "matrix": matrix})
    assert [path for path, _ in found] == ["matrix.width", "matrix.model"]


def test_a_task_has_every_default_filled_in() -> None:
    task = realise({"kind": "text2img", "prompt": "x", "seed": 4}, job="j", index=2, inputs={})
    assert (task.model, task.steps, task.guidance) == ("schnell", 4, 0.0)
    assert (task.width, task.height, task.precision) == (1024, 1024, "auto")


def test_a_task_with_a_picture_follows_its_size_and_keeps_the_kinds_options() -> None:
    spec = {"kind": "fill", "prompt": "x", "seed": 4, "outpaint": {"left": 16}, "steps": 9}
    image = InputImage(Path("a.png"))
    task = realise(spec, job="j", index=1, inputs={"image": [image]})
    assert (task.width, task.height, task.steps, task.guidance) == (None, None, 9, 30.0)
    assert task.options == {"outpaint": {"left": 16}, "composite": True}
    assert task.inputs == {"image": (image,)}
    assert json.dumps(dict(task.options))


def test_only_the_built_in_model_warns_of_words_it_does_not_know() -> None:
    assert warnings({"kind": "text2img", "model": "dev", "prompt": "a cat"}) == []
    assert warnings({"kind": "text2img", "model": "tiny", "prompt": "a red circle"}) == []
    (text,) = warnings({"kind": "text2img", "model": "tiny", "prompt": "a red cat"})
    assert "`cat`" in text


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((64, 64), (64, 64)),
        ((1000, 700), (992, 688)),
        ((4000, 3000), (1664, 1248)),
        ((100, 7), (96, 64)),
    ],
)
def test_a_size_that_follows_a_picture_is_floored_and_bounded(
    picture: tuple[int, int], size: tuple[int, int]
) -> None:
    assert Sizes().following(*picture) == size
    assert Sizes().problem(*size) is None

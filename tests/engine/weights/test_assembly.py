"""What the index of a model may name: whoever made the weights wrote it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runner.engine.weights.assembly import _class
from runner.errors import ModelMissing


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("evil", "Model"), ("os", "system"), ("transformers.utils", "ModelOutput"),
        ("diffusers", "nothing"), ("diffusers", "__name__"), ("transformers", "logging"),
        ("", "Model"), ("..evil", "Model"),
    ],
)  # fmt: skip
def test_an_index_names_classes_of_diffusers_and_transformers_only(
    library: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: `evil.py`, which lay on the path, was run."""
    (tmp_path / "evil.py").write_text("class Model:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelMissing, match="no part of diffusers or transformers"):
        _class(library, name)
    assert "evil" not in sys.modules


def test_a_class_of_theirs_is_found() -> None:
    assert _class("diffusers", "AutoencoderKL").__name__ == "AutoencoderKL"
    assert _class("transformers", "T5EncoderModel").__name__ == "T5EncoderModel"

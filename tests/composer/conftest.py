"""A folder with one pack of three subjects and two variables."""

from pathlib import Path

import pytest

from tests.composer.helpers import write_pack


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    write_pack(
        tmp_path,
        subjects={"mug": "a mug", "cup2": "a cup", "cup10": "a big cup"},
        variables={"day": "by day", "night": "by night"},
        defaults={"steps": 4, "seeds": [3, 9]},
    )
    return tmp_path

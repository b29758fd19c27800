"""The whole way for pictures that people really have: every mode, turned ones, bad ones.

And where weights are looked for: inside the home, unless the user has said otherwise.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.harness import PATIENCE, Runner, clean_environment, spec
from tests.walks.test_walk import pixels

pytestmark = pytest.mark.timeout(240)


def upright() -> Image.Image:
    """A picture that looks different from every side."""
    image = Image.new("RGB", (64, 64), (20, 40, 200))
    image.paste((220, 30, 30), (4, 6, 40, 30))
    image.paste((240, 220, 40), (40, 40, 60, 62))
    return image


def png(image: Image.Image, **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **more)
    return buffer.getvalue()


def jpeg(image: Image.Image, **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **more)
    return buffer.getvalue()


def turned() -> bytes:
    """A picture lying on its side, with the note of the camera that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    return png(upright().transpose(Image.Transpose.ROTATE_90), exif=exif)


def sixteen_bit() -> bytes:
    """The grey picture with 16 bits for each pixel."""
    grey = upright().convert("L")
    data = b"".join(bytes((value, value)) for value in grey.tobytes())
    return png(Image.frombytes("I;16", grey.size, data))


def made_from(runner: Runner, stem: str, data: bytes, suffix: str = ".png") -> str:
    """The pixels that a quick edit of this picture has."""
    runner.put(f"{stem}{suffix}", data)
    job = runner.drop(f"in-{stem}", kind="kontext", image=f"{stem}{suffix}")
    return pixels(runner, runner.succeeded(job)[0])


@pytest.fixture(scope="module")
def plain(shared_runner: Runner) -> str:
    """The pixels made from the upright RGB picture."""
    return made_from(shared_runner, "plain", png(upright()))


@pytest.fixture(scope="module")
def grey(shared_runner: Runner) -> str:
    """The pixels made from the same picture in 8-bit grey, as RGB."""
    return made_from(shared_runner, "grey", png(upright().convert("L").convert("RGB")))


def test_a_picture_matters_to_what_is_made_of_it(plain: str, grey: str) -> None:
    """Else the tests of sameness below would prove nothing."""
    assert plain != grey


def test_an_opaque_rgba_picture_is_its_rgb_picture(runner: Runner, plain: str) -> None:
    assert made_from(runner, "rgba", png(upright().convert("RGBA"))) == plain


def test_a_palette_picture_is_its_rgb_picture(runner: Runner, plain: str) -> None:
    assert made_from(runner, "palette", png(upright().quantize(16))) == plain


def test_a_turned_photograph_is_read_upright(runner: Runner, plain: str) -> None:
    assert made_from(runner, "turned", turned()) == plain


def test_a_grey_picture_is_read_as_grey(runner: Runner, grey: str) -> None:
    assert made_from(runner, "eight-bit", png(upright().convert("L"))) == grey


def test_a_16_bit_picture_is_scaled_not_cut_off(runner: Runner, grey: str) -> None:
    assert made_from(runner, "sixteen-bit", sixteen_bit()) == grey


def test_a_cmyk_photograph_is_read(runner: Runner, plain: str) -> None:
    assert made_from(runner, "cmyk", jpeg(upright().convert("CMYK")), ".jpg") != plain


def test_a_transparent_webp_with_a_blank_in_its_name_is_read(runner: Runner) -> None:
    buffer = io.BytesIO()
    upright().convert("RGBA").save(buffer, "WEBP")
    made_from(runner, "my photo", buffer.getvalue(), ".webp")


def test_what_is_no_picture_fails_its_job_only(runner: Runner) -> None:
    runner.put("nonsense.png", b"this is no picture")
    bad = runner.drop("in-nonsense", kind="kontext", image="nonsense.png")
    good = runner.drop("beside-nonsense")
    status = runner.over(bad)
    assert (status["state"], status["reason"]) == ("failed", "InputBad")
    assert "nonsense.png" in status["message"]
    runner.succeeded(good)


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret.png", "inbox/../../x.png", "C:x.png"])
def test_a_path_that_leaves_the_home_is_refused(runner: Runner, path: str) -> None:
    name = runner.put("leaves.yaml", spec(kind="kontext", image=path))
    receipt = runner.answer(name)
    assert receipt["outcome"] == "rejected"
    assert runner.status(receipt["job"])["reason"] == "PathNotAllowed"


def test_an_input_may_come_after_its_spec_and_the_original_is_left_alone(runner: Runner) -> None:
    job = runner.drop("patient", kind="control", image="tardy.png")
    status = runner.status(job)
    assert (status["state"], status["reason"]) == ("queued", "WaitingForInput")
    data = png(upright())
    runner.put("tardy.png", data)
    (sidecar,) = runner.succeeded(job)
    assert sidecar["image"] == "outbox/patient/inputs/tardy.png"
    assert (runner.home / "inbox" / "tardy.png").read_bytes() == data
    assert (runner.home / sidecar["image"]).read_bytes() == data


WATCH_IMPORTS = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "huggingface_hub":
            sys.stderr.write("at import: " + os.environ.get("HF_HOME", "unset") + "\\n")
sys.meta_path.insert(0, Watch())
from runner.cli import main
code = main(["--home", sys.argv[1], "drain", "--one-process"])
from huggingface_hub import constants
sys.stderr.write("as read: " + constants.HF_HOME + "\\n")
sys.exit(code)
"""


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_weights_are_kept_in_the_home_unless_the_user_says_otherwise(
    home: Path, tmp_path: Path, own: str | None
) -> None:
    """HF_HOME is read once, when huggingface_hub is imported: too late is never."""
    (home / "inbox" / "any.yaml").write_text(spec(), encoding="utf-8")
    wanted = tmp_path / own if own else home / "data" / "hf-cache"
    environment = clean_environment(**({"HF_HOME": str(wanted)} if own else {}))
    done = subprocess.run(
        [sys.executable, "-c", WATCH_IMPORTS, str(home)],
        capture_output=True, timeout=PATIENCE, env=environment, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"at import: {wanted}\n" in done.stderr
    assert f"as read: {wanted}\n" in done.stderr

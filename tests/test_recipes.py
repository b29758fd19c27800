"""The recipes of CONTRIBUTING.md, followed in a copy of the checkout until it renders what is new.

A step here bears the number and the words of its step there, and changes text as a contributor
would. Then the tests run that the recipe names, and a drain renders a picture, both with the
copy's own code.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from tests.harness import PATIENCE, ROOT, clean_environment

FOLDERS = ("runner", "specs", "composer", "prompts", "tests")


class Checkout:
    """A copy of this checkout, whose files are changed and whose code is run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, root)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, root / name)

    def write(self, path: str, text: str) -> None:
        """Write a new file."""
        assert not (self.root / path).exists()
        (self.root / path).write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def change(self, path: str, before: str, after: str) -> None:
        """Change a text that occurs once."""
        text = self.read(path)
        assert text.count(before) == 1, (path, before)
        (self.root / path).write_text(text.replace(before, after), encoding="utf-8")

    def add(self, path: str, after: str, text: str) -> None:
        """Add text behind a text that occurs once."""
        self.change(path, after, after + text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python with this copy first on its path, whatever is installed."""
        environment = clean_environment(PYTHONPATH=str(self.root))
        environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST")}
        return subprocess.Popen(
            [sys.executable, "-P", *arguments], cwd=self.root, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
        )  # fmt: skip

    def python(self, *arguments: str) -> str:
        """Run Python so; what it printed."""
        return ended(self.start(*arguments))


def ended(process: subprocess.Popen[str]) -> str:
    """What a process printed, once it has ended well."""
    try:
        printed, _ = process.communicate(timeout=4 * PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


Step = tuple[str, Callable[[Checkout], None]]


@dataclass(frozen=True)
class Recipe:
    """The steps by their words, what of the named tests is run, and what is rendered.

    `drop` are specs by the name of their files. `twin` is the model that they name, the one that
    it is like, and the part of the random twin that it is loaded from.
    """

    steps: Sequence[Step]
    only: str
    drop: dict[str, str]
    twin: tuple[str, str, str] | None = None


# -- a field ---------------------------------------------------------------------------------------


def field_schema(copy: Checkout) -> None:
    copy.add(
        "specs/control.schema.json",
        """\
    "preprocessed": {
      "description": "`true` when `image` already is the outline or depth map.",
      "type": "boolean",
      "default": false
    },
""",
        """\
    "mirror": {
      "description": "`true` mirrors the picture first, left to right.",
      "type": "boolean",
      "default": false
    },
""",
    )
    copy.change(
        "specs/control.schema.json",
        '''\
        "preprocessed": {
          "description"''',
        '''\
        "mirror": {
          "description": "The values of `mirror` to combine.",
          "type": "array",
          "minItems": 1,
          "maxItems": 10000,
          "uniqueItems": true,
          "items": {
            "$ref": "#/properties/mirror"
          }
        },
        "preprocessed": {
          "description"''',
    )


def field_row(copy: Checkout) -> None:
    copy.add(
        "specs/README.md",
        "`image` already is the map (default `false`: it is made) |\n",
        "| `control` | `mirror` | `true` `false` | mirror the picture first (default `false`) |\n",
    )


def field_effect(copy: Checkout) -> None:
    file = "runner/engine/kinds/control.py"
    copy.add(file, '"preprocessed": False', ', "mirror": False')
    copy.add(
        file,
        "    source, warnings = (images.open_depth_map if depth and ready else images.open_image)"
        "(item)\n",
        '    if task.options.get("mirror"):\n'
        "        from PIL import ImageOps\n\n"
        "        source = ImageOps.mirror(source)\n",
    )


OUTLINE = """\
kind: control
model: tiny
image: outbox/draw/draw-0001.png
prompt: a large orange circle on a black background
seed: 7
steps: 2
"""
DRAW = "kind: text2img\nmodel: tiny\nprompt: a small red circle on the left\nseed: 7\nsteps: 2\n"
FIELD = Recipe(
    steps=(
        ("Its schema.", field_schema),
        ("Its row", field_row),
        ("What it does.", field_effect),
    ),
    only="control or test_registry_complete or test_agree",
    drop={"draw": DRAW, "plain": OUTLINE, "mirrored": OUTLINE + "mirror: true\n"},
)

# -- a kind ----------------------------------------------------------------------------------------


def kind_file(copy: Checkout) -> None:
    text = copy.read("runner/engine/kinds/kontext.py").replace("kontext", "retouch")
    copy.write("runner/engine/kinds/retouch.py", text)
    registry = "runner/engine/registry.py"
    copy.add(registry, "import control, fill, kontext, redux", ", retouch")
    copy.add(registry, "control.KIND, redux.KIND", ", retouch.KIND")


def kind_schema(copy: Checkout) -> None:
    text = copy.read("specs/kontext.schema.json").replace("kontext", "retouch")
    copy.write("specs/retouch.schema.json", text)
    copy.python("-m", "tests.specs")


def kind_models(copy: Checkout) -> None:
    entries = "runner/engine/entries.py"
    copy.change(
        entries,
        '        "fill": Serving("FluxFillPipeline", 8, 30.0, part="fill"),\n',
        '        "fill": Serving("FluxFillPipeline", 8, 30.0, part="fill"),\n'
        '        "retouch": Serving("FluxKontextPipeline", 8, 2.5, part="kontext", '
        'negative="true_cfg"),\n',
    )
    copy.add(
        entries,
        '        "kontext": replace(_KLEIN_SERVING, references=4),\n',
        '        "retouch": replace(_KLEIN_SERVING, references=4),\n',
    )
    for name in ("klein", "klein-base", "klein-9b", "klein-base-9b", "klein-9b-kv"):
        row = f"| `{name}` | text2img, kontext, "
        copy.change("README.md", f"{row}redux", f"{row}retouch, redux")


def kind_example(copy: Checkout) -> None:
    text = copy.read("specs/examples/edit.yaml").replace("kontext", "retouch")
    copy.write("specs/examples/retouch.yaml", text)


def kind_tool(copy: Checkout) -> None:
    copy.add(
        "runner/mcp_server/tools.py",
        "_MAKERS = {\n",
        """\
    "flux_retouch": (
        "retouch",
        "Retouch a picture",
        "Makes small changes to an existing picture as an instruction says, and keeps the rest."
        " Needs `image`." + _PROMPT + _BULK,
    ),
""",
    )
    copy.change(
        "README.md",
        "| `flux_generate` |",
        "| `flux_retouch` | changes a picture a little (`retouch`) |\n| `flux_generate` |",
    )


def kind_pages(copy: Checkout) -> None:
    copy.change("README.md", "`redux` (variations), each", "`redux` (variations), `retouch`, each")
    copy.change("specs/README.md", "`control` `redux` | what", "`control` `redux` `retouch` | what")
    copy.add(
        "specs/README.md",
        "| `redux` | `image` | a path, or a list | required: the pictures to vary or blend |\n",
        "| `retouch` | `image` | a path, or a list | required: the picture to change |\n"
        "| `retouch` | `negative_prompt` | a text | what shall not be there |\n"
        "| `retouch` | `true_cfg` | a number | how strongly that acts |\n",
    )


def kind_picture(copy: Checkout) -> None:
    copy.change(
        "runner/gallery/formatting.py",
        '{"fill", "kontext", "text2img"}',
        '{"fill", "kontext", "text2img", "retouch"}',
    )
    footprint = "runner/engine/memory/footprint.py"
    copy.change(footprint, '"flux1": ("kontext",)', '"flux1": ("kontext", "retouch")')
    copy.change(
        footprint, '("kontext", "redux", "fill")', '("kontext", "redux", "fill", "retouch")'
    )


RETOUCH = (
    "kind: retouch\nmodel: tiny\nimage: outbox/draw/draw-0001.png\nprompt: make it blue\nseed: 7\n"
)
KIND = Recipe(
    steps=(
        ("Its file.", kind_file),
        ("Its schema.", kind_schema),
        ("Its models.", kind_models),
        ("Its example.", kind_example),
        ("Its tool.", kind_tool),
        ("Its words.", kind_pages),
        ("Its picture,", kind_picture),
    ),
    only="retouch or test_registry_complete or test_agree or test_tools",
    drop={"draw": DRAW, "retouch": RETOUCH},
)

# -- a model ---------------------------------------------------------------------------------------


def model_entry(copy: Checkout) -> None:
    copy.change(
        "runner/engine/entries.py",
        """\
    _flux1(
        "canny",
""",
        """\
    _flux1(
        "sketch-dev",
        "FLUX.1-Sketch-dev",
        11_901_408_320,
        text2img=Serving("FluxPipeline", 28, 3.5),
    ),
    _flux1(
        "canny",
""",
    )


def model_row(copy: Checkout) -> None:
    copy.change(
        "README.md",
        "| `canny` | control |",
        "| `sketch-dev` | text2img | FLUX.1-dev-Non-Commercial | yes | 34 GB |\n"
        "| `canny` | control |",
    )


def model_names(copy: Checkout) -> None:
    copy.add("runner/gallery/foreign.py", "_MODELS = (\n", '    (r"sketch", "sketch-dev"),\n')


MINE = "kind: text2img\nmodel: {}\nprompt: a\nseed: 7\nsteps: 2\nwidth: 64\nheight: 64\n"
MODEL = Recipe(
    steps=(
        ("Its entry", model_entry),
        ("Its row", model_row),
        ("Its other names.", model_names),
    ),
    only="sketch or test_registry_complete",
    drop={"sketched": MINE.format("sketched")},
    twin=("sketched", "sketch-dev", "text2img"),
)

# -- a family --------------------------------------------------------------------------------------


def family_file(copy: Checkout) -> None:
    copy.write(
        "runner/engine/families/chroma.py",
        '''\
"""Chroma: T5 alone as text encoder, whose padding is masked, and the latents of FLUX.1."""

from __future__ import annotations

from typing import Any

from runner.engine.families import flux1
from runner.engine.families.base import Embeddings, Family, Reader
from runner.engine.prompts import token_files


def _encode(pipe: Any, prompt: str, length: int) -> Embeddings:
    import torch

    with torch.no_grad():
        prompt_embeds, _, mask, *_ = pipe.encode_prompt(
            prompt=prompt, do_classifier_free_guidance=False, max_sequence_length=length
        )
    return {"prompt_embeds": prompt_embeds, "prompt_attention_mask": mask}


CHROMA = Family(
    name="chroma",
    encode=_encode,
    decode=flux1.FLUX1.decode,
    grid=flux1.FLUX1.grid,
    readers=(Reader("T5", "tokenizer", token_files.t5),),
)
''',
    )
    families = "runner/engine/families/__init__.py"
    copy.change(
        families,
        "from runner.engine.families.flux1 ",
        "from runner.engine.families.chroma import CHROMA\nfrom runner.engine.families.flux1 ",
    )
    copy.change(families, "FLUX3, ZIMAGE)", "FLUX3, ZIMAGE, CHROMA)")


def family_kinds(copy: Checkout) -> None:
    copy.add("runner/engine/kinds/text2img.py", '"zimage": _arguments', ', "chroma": _arguments')


def family_twin(copy: Checkout) -> None:
    copy.write(
        "tests/twins/chroma.py",
        '''\
"""Chroma's twin: the T5 and the VAE of FLUX.1, and a transformer with its approximator."""

from __future__ import annotations

from typing import Any

from tests.twins import flux1
from tests.twins.pieces import HIDDEN, flux1_vae, scheduler, seeded

CLASSES = {"chroma": ("ChromaPipeline",)}


def parts(part: str) -> dict[str, Any]:
    """The components of the one part there is."""
    text = flux1.parts("text2img")
    return {
        "scheduler": scheduler(),
        "transformer": seeded("chroma-transformer", _transformer),
        "vae": flux1_vae(),
        "text_encoder": text["text_encoder_2"],
        "tokenizer": text["tokenizer_2"],
        "image_encoder": None,
        "feature_extractor": None,
    }


def _transformer() -> Any:
    from diffusers import ChromaTransformer2DModel

    return ChromaTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=HIDDEN,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=64,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
''',
    )
    copy.change(
        "pyproject.toml",
        'filterwarnings = ["error"]',
        'filterwarnings = ["error", "ignore:`FluxPosEmbed` is deprecated:FutureWarning"]',
    )


def family_model(copy: Checkout) -> None:
    entries = "runner/engine/entries.py"
    copy.change(
        entries,
        "_ENTRIES = (\n",
        """\
_CHROMA_WEIGHTS = Weights(8_900_000_000, 4_762_310_656, _FLUX1_VAE)
_CHROMA = Model(
    name="chroma",
    repo="lodestones/Chroma1-HD",
    licence=APACHE,
    family="chroma",
    weights=_CHROMA_WEIGHTS,
    bytes=2 * _CHROMA_WEIGHTS.total,
    serves={"text2img": Serving("ChromaPipeline", 26, 1.0, guided=False)},
)

_ENTRIES = (
""",
    )
    copy.change(entries, "    _ZIMAGE,\n", "    _ZIMAGE,\n    _CHROMA,\n")
    copy.change(
        "README.md",
        "| `z-image-control` | control |",
        "| `chroma` | text2img | Apache-2.0 | no | 27 GB |\n| `z-image-control` | control |",
    )
    copy.add("runner/gallery/foreign.py", "_MODELS = (\n", '    (r"chroma", "chroma"),\n')
    copy.add("runner/gallery/infotext.py", '_DISTILLED = re.compile("', "chroma|")


FAMILY = Recipe(
    steps=(
        ("Its file.", family_file),
        ("Its kinds.", family_kinds),
        ("Its twin", family_twin),
        ("Its first model,", family_model),
    ),
    only="chroma or test_registry_complete or test_registry",
    drop={"coloured": MINE.format("coloured")},
    twin=("coloured", "chroma", "chroma"),
)

RECIPES = {
    "A new field of a spec": FIELD,
    "A new kind": KIND,
    "A new model": MODEL,
    "A new family of models": FAMILY,
}


def follow(copy: Checkout, steps: Sequence[Step], *, without: int = 0) -> None:
    """Take every step of a recipe but the one of this number."""
    for number, (_, take) in enumerate(steps, 1):
        if number != without:
            take(copy)


def section(heading: str) -> str:
    """What CONTRIBUTING.md says below a heading."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.split(r"^#+ ", text.partition(f"### {heading}\n")[2], flags=re.MULTILINE)[0]


def named_tests(heading: str) -> list[str]:
    """The files and folders of tests that a recipe names."""
    return re.findall(r"`(tests/[^`]+)`", section(heading).partition("\nTests: ")[2])


@pytest.mark.parametrize("heading", RECIPES)
def test_the_steps_are_those_of_the_page(heading: str) -> None:
    written = re.findall(r"^(\d)\. \*\*(.+?)\*\*", section(heading), re.MULTILINE)
    taken = [(str(number), words) for number, (words, _) in enumerate(RECIPES[heading].steps, 1)]
    assert written == taken


@pytest.mark.parametrize("heading", RECIPES)
def test_every_file_that_a_recipe_names_is_there(heading: str) -> None:
    names = re.findall(r"`([\w<>./]+(?:/|\.\w+))`", section(heading)) + named_tests(heading)
    assert len(names) >= 4
    known = {"<kind>": "text2img", "<family>": "flux1"}
    for name in names:
        path = re.sub("<kind>|<family>", lambda found: known[found[0]], name)
        found = (ROOT / path, ROOT / "specs" / "examples" / path)
        assert any(each.exists() for each in found), name


IMPORTED = (
    "import runner, specs, composer, tests as t; print(runner, specs, composer, t, sep='\\n')"
)
TWINS = (
    "import sys, pathlib as p, tests.random_twin as r\n"
    "for part in sys.argv[2:]: r.folder(part, p.Path(sys.argv[1]))"
)


@pytest.mark.timeout(600)
def test_the_recipes_end_with_green_tests_and_a_picture_of_what_is_new(tmp_path: Path) -> None:
    """All are followed in one copy: each adds something else, and the imports cost most of it."""
    copy, home = Checkout(tmp_path / "checkout"), tmp_path / "home"
    for recipe in RECIPES.values():
        follow(copy, recipe.steps)
    assert copy.python("-c", IMPORTED).count(str(copy.root)) == 4, "an installed copy was imported"

    only = " or ".join(recipe.only for recipe in RECIPES.values())
    named = sorted({name for heading in RECIPES for name in named_tests(heading)})
    tests = copy.start("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", only, *named)
    try:
        copy.python("-m", "runner", "init", str(home))
        twins = [recipe.twin for recipe in RECIPES.values() if recipe.twin]
        copy.python("-c", TWINS, str(tmp_path), *(part for _, _, part in twins))
        registry = {
            name: {"like": like, "folder": str(tmp_path / "random-twin" / part)}
            for name, like, part in twins
        }
        (home / "fluxdrop.yaml").write_text(json.dumps({"registry": registry}), "utf-8")
        for recipe in RECIPES.values():
            for name, spec in recipe.drop.items():
                (home / "inbox" / f"{name}.yaml").write_text(spec, encoding="utf-8")
        copy.python("-m", "runner", "drain", "--home", str(home))
        for recipe in RECIPES.values():
            pixels = set()
            for name in recipe.drop:
                with Image.open(home / "outbox" / name / f"{name}-0001.png") as picture:
                    pixels.add(picture.tobytes())
            assert len(pixels) == len(recipe.drop)
    finally:
        ended(tests)

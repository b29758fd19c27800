"""Which repositories and files a model needs, for fetching it and for finding missing files.

Reads names and small files only. No network, and of weights only the header, which says how long
their file must be.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from runner.engine.models import Aid, ControlNet, Estimator, Model, Prior, Upscaler
from runner.files import files_below, is_absent, is_file, names_in, paths_in

INDEX = "model_index.json"
INDEXES = (INDEX, "modular_model_index.json")
"""The files that may name a pipeline's components; where there are both, the first one counts."""

HEAVY = "transformer"
"""The component that denoises, and whose weights a single file may replace; a memory plan chooses
its precision and placement."""

_STEM = r"(?:model|diffusion_pytorch_model|pytorch_model)"
# A name with one more word (`model.fp16.safetensors`) is a variant, which is never loaded.
_WEIGHTS = re.compile(rf"{_STEM}(?:-\d{{5,}}-of-\d{{5,}})?\.safetensors")
_SHARDS = re.compile(rf"{_STEM}\.safetensors\.index\.json")
_SMALL_FILES = (".json", ".txt", ".model", ".jinja")
_WEIGHTLESS = re.compile("Tokenizer|Scheduler|Processor|FeatureExtractor")
_UPSAMPLERS = "prompt_upsampler"
"""Components of 18 GB that write prompts anew; no pipeline here uses them."""
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


class Layout(StrEnum):
    """What a repository holds: a pipeline, one component alone, or single files."""

    PIPELINE = "pipeline"
    COMPONENT = "component"
    FILE = "file"


@dataclass(frozen=True)
class Source:
    """A repository or local folder that a model needs.

    `repo` is the repository's name or an absolute path. `file` is the one file that is needed of a
    layout of single files, and `sha256` is its hash where that is published; `replaced` is the
    component whose weights come from another source.
    """

    repo: str
    revision: str = "main"
    layout: Layout = Layout.PIPELINE
    file: str = ""
    replaced: str = ""
    sha256: str = ""

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of the user's, which nothing is downloaded into."""
        return Path(self.repo).is_absolute()

    @property
    def needs_index(self) -> bool:
        """Whether a folder without an index does not count as this source."""
        return self.layout is Layout.PIPELINE


def sources(
    wanted: Model | Aid, kind: str | None = None, *, estimates: bool = True
) -> tuple[Source, ...]:
    """All that is needed of a model, for one kind or for all, its pipeline first, or of an aid.

    None for what is built in.
    """
    if not isinstance(wanted, Model):
        return (source_of(wanted),)
    if wanted.builtin:
        return ()
    needed = [main_source(wanted), *([single_source(wanted)] if wanted.single else [])]
    for name, serving in wanted.serves.items():
        parts = (serving.prior, serving.controlnet, serving.estimator if estimates else None)
        needed += [source_of(part) for part in parts if part and kind in (None, name)]
    return tuple(dict.fromkeys(needed))


def main_source(model: Model) -> Source:
    """The pipeline of a model."""
    return Source(model.repo, model.revision, replaced=HEAVY if model.single else "")


def single_source(model: Model) -> Source:
    """The source of the one file with a model's transformer."""
    single = model.single
    assert single is not None
    if not single.repo:
        file = Path(single.file)
        return Source(str(file.parent), layout=Layout.FILE, file=file.name)
    return Source(single.repo, single.revision, Layout.FILE, single.file)


def source_of(part: Prior | ControlNet | Aid) -> Source:
    """What is needed of one of these: of an estimator a component without a pipeline around."""
    if isinstance(part, Prior):
        return Source(part.repo)
    if isinstance(part, Estimator):
        return Source(part.repo, layout=Layout.COMPONENT)
    sha256 = part.sha256 if isinstance(part, Upscaler) else ""
    return Source(part.repo, layout=Layout.FILE, file=part.file, sha256=sha256)


def wanted(source: Source, names: Iterable[str], index: Mapping[str, Any]) -> list[str]:
    """The files to fetch, by name, of all `names` in a repository; `index` is its pipeline's.

    Left out are copies of the weights in other forms: whole-model files beside the folders,
    half-precision variants, ONNX, Flax, and pickles, which may run code.
    """
    names = sorted(filter(_is_plain_path, names))
    if source.layout is Layout.FILE:
        return [name for name in names if name == source.file]
    if source.layout is Layout.COMPONENT:
        return sorted(_needed({name for name in names if "/" not in name}))
    chosen = [name for name in INDEXES if name in names][:1]
    for part, (_, kind) in components(index).items():
        inside = {rest for name in names for head, _, rest in [name.partition("/")] if head == part}
        inside = {rest for rest in inside if rest and "/" not in rest}
        has_weights = part != source.replaced and not _WEIGHTLESS.search(kind)
        chosen += [f"{part}/{name}" for name in sorted(_needed(inside, weights=has_weights))]
    return chosen


def _is_plain_path(name: str) -> bool:
    """Whether a name is safe below the folder that it is written to, on every system."""
    parts = name.split("/")
    return not re.search(r'[\\:*?"<>|\x00-\x1f]', name) and not {"", ".", ".."} & set(parts)


def _needed(names: set[str], *, weights: bool = True) -> set[str]:
    """The files of one component's folder that loading it reads."""
    small = {name for name in names if name.endswith(_SMALL_FILES) and ".index." not in name}
    if not weights:
        return small
    chosen = {name for name in names if _WEIGHTS.fullmatch(name)}
    shards = {name for name in chosen if "-of-" in name}
    lists = {name for name in names if _SHARDS.fullmatch(name)}
    return small | (shards | lists if shards and lists else chosen)


def loaded(part: Path) -> list[Path]:
    """The files of a component's folder that loading it reads, in the order of their names."""
    return [part / name for name in sorted(_needed(_files(part))) if not name.startswith(".")]


def components(index: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The components of a pipeline: name → library and class, without those that it leaves out.

    In a modular index a component has a third value, which names the class where the first two do
    not, and may name another repository: that is not looked at.
    """
    found = {}
    for name, value in index.items():
        if name.startswith(("_", _UPSAMPLERS)) or not isinstance(value, list):
            continue
        if len(value) == 3 and isinstance(value[2], dict) and not value[0]:
            value = value[2].get("type_hint") or []
        if len(value) in (2, 3) and value[0]:
            found[name] = str(value[0]), str(value[1])
    return found


def read_json(file: Path) -> Any:
    """The content of a JSON file; None where it is absent or no JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline's folder; empty where it is absent or not a JSON object."""
    value = read_json(index_of(folder))
    return value if isinstance(value, dict) else {}


def index_of(folder: Path) -> Path:
    """The index of a pipeline's folder; without one, the file that it should be."""
    return folder / index_in([name for name in INDEXES if is_file(folder / name)])


def index_in(names: Collection[str]) -> str:
    """The index of these files of a pipeline; without one, the name that it should have."""
    return next((name for name in INDEXES if name in names), INDEX)


def lacking(source: Source, folder: Path) -> list[str]:
    """The names of needed files that a folder lacks; one that ends with `/` is a component."""
    if source.layout is Layout.FILE:
        return [] if is_file(folder / source.file) else [source.file]
    if source.layout is Layout.COMPONENT:
        return list(_lacking_part(folder, "transformers", "Model", weights=True))
    index = read_index(folder)
    if not index:
        return [INDEX]
    return [
        f"{part}/{name}"
        for part, (library, kind) in components(index).items()
        for name in _lacking_part(folder / part, library, kind, weights=part != source.replaced)
    ]


def _lacking_part(part: Path, library: str, kind: str, *, weights: bool) -> Iterator[str]:
    files = _files(part)
    if not files:
        yield ""
    elif "Scheduler" in kind:
        if "scheduler_config.json" not in files:
            yield "scheduler_config.json"
    elif "Tokenizer" in kind or part.name == "tokenizer":  # or a processor with one in it
        if not files & set(_VOCABULARIES):
            yield _VOCABULARIES[0]
    elif _WEIGHTLESS.search(kind):
        if not any(name.endswith(".json") for name in files):
            yield "preprocessor_config.json"
    else:
        if "config.json" not in files:
            yield "config.json"
        if weights:
            yield from _lacking_weights(part, files, library)


def _lacking_weights(part: Path, files: set[str], library: str) -> Iterator[str]:
    lists = sorted(name for name in files if _SHARDS.fullmatch(name))
    for name in lists:
        listed = read_json(part / name)
        shards = listed.get("weight_map") if isinstance(listed, dict) else None
        if isinstance(shards, dict):
            yield from sorted(set(map(str, shards.values())) - files)
        else:
            yield name
    if not lists and not any(_WEIGHTS.fullmatch(name) for name in files):
        stem = "model" if library == "transformers" else "diffusion_pytorch_model"
        yield f"{stem}.safetensors"


def pickles(folder: Path, gone: Iterable[str]) -> list[str]:
    """The pickles of a folder that lie in the place of missing weights; they are never loaded."""
    parts = {(folder / name).parent for name in gone if name.endswith(".safetensors")}
    files = (file for part in parts for file in paths_in(part, "*.bin"))
    return sorted(file.relative_to(folder).as_posix() for file in files)


def damaged(source: Source, folder: Path) -> list[str]:
    """The names of needed files that are damaged: cut short, or not in the format of their name."""
    chosen = wanted(source, files_below(folder), read_index(folder))
    return [name for name in chosen if not _is_sound(folder / name)]


def _is_sound(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="np"):  # compares the length with the header's
                return True
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        return True
    except (ValueError, SafetensorError):
        return False
    except OSError as error:
        if is_absent(error):
            return False
        raise


def _files(part: Path) -> set[str]:
    """The names of the files in a folder, without broken links."""
    return {name for name in names_in(part) if is_file(part / name)}

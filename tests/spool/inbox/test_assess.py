"""One assessment for all who look at a spec: every problem at once, and each only once.

A table of single mistakes on specs of every form is tried alone and in all pairs: two mistakes that
have nothing to do with each other are both told, and no other sentence is said because of them.
"""

from __future__ import annotations

import copy
import errno
import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.catalogue import RegistryCatalogue
from runner.mcp_server.tools import KIND_OF
from runner.settings import Home, Settings, find_home
from runner.spool.inbox.assess import Assessment, assess
from runner.spool.inbox.compose_process import assessed
from specs import schemas
from specs.expand import image
from specs.read import read
from specs.write import to_yaml
from tests.cli.here import Here
from tests.composer.helpers import write_pack
from tests.mcp_server.support import agent, play
from tests.spool.conftest import Spool
from tests.spool.lora_files import content, put

Spec = dict[str, Any]

BASES: dict[str, Spec] = {
    "plain": {"kind": "text2img", "model": "tiny", "prompt": "a red circle", "seed": 1},
    "klein": {"kind": "text2img", "prompt": "a red circle"},
    "matrix": {
        "kind": "text2img", "model": "tiny", "seeds": [1, 2],
        "matrix": {"prompt": ["a red circle", "a blue star"], "steps": [4, 8]},
    },
    # What a negative prompt names is not wanted, so its forbidden word is no mistake.
    "start": {
        "kind": "text2img", "model": "tiny", "prompt": "a red circle", "image": "a.png",
        "strength": 0.5, "negative_prompt": "blood",
    },
    "fill": {
        "kind": "fill", "model": "tiny", "prompt": "a star", "image": "a.png", "mask": "b.png",
    },
    "control": {"kind": "control", "model": "canny", "prompt": "a star", "image": "a.png"},
    "redux": {"kind": "redux", "model": "tiny", "image": ["a.png", {"path": "b.png", "weight": 1}]},
    "compose": {
        "kind": "text2img", "model": "tiny", "seed": 1,
        "compose": {"pack": "mugs", "subjects": ["cup", "mug"], "variables": "day"},
    },
    "of the pack": {
        "kind": "text2img", "guidance": 3,
        "compose": {"pack": "mugs", "subjects": "all", "variables": "all"},
    },
    "of the matrix": {
        "kind": "text2img", "prompt": "a star", "guidance": 3, "matrix": {"model": ["tiny"]},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A mistake: the fields it sets (None: left out), its problem, and the other fields it needs.

    `needs` are the fields without which nobody could know that it is one.
    """

    fields: Mapping[str, Any]
    path: str
    says: str
    bases: tuple[str, ...] = tuple(BASES)
    needs: frozenset[str] = frozenset()
    reason: str = "SchemaInvalid"

    @property
    def touches(self) -> set[str]:
        """The fields that it sets."""
        return set(self.fields)


def _fault(
    path: str, says: str, *bases: str, needs: str = "", reason: str = "SchemaInvalid", **fields: Any
) -> Fault:
    needed = frozenset(needs.split())
    return Fault(fields, path, says, bases or tuple(BASES), needed, reason)


_IMAGES = ("fill", "control", "redux")
_TINY = ("plain", "matrix")
_LORA = {"path": "ink.safetensors"}
_CUP = {"pack": "mugs", "subjects": "cup", "variables": "day"}
MODEL = "model kind compose matrix control"

FAULTS: dict[str, Fault] = {
    # the schema
    "misspelt key": _fault("tgas", "did you mean 'tags'?", tgas=["a"]),
    "unknown key": _fault("zzz", "unknown key 'zzz'", zzz=1),
    "key of another kind": _fault("outpaint", "(it belongs to fill)", "plain", "redux",
                                  needs="kind", outpaint=1),
    "misspelt and needed": _fault("prmopt", "did you mean 'prompt'?", "plain", "fill",
                                  prompt=None, prmopt="a star"),
    "misspelt model": _fault("modle", "did you mean 'model'?", *_TINY, model=None, modle="tiny"),
    "misspelt image": _fault("imgae", "did you mean 'image'?", *_IMAGES,
                             image=None, imgae="a.png"),
    "misspelt, of another form": _fault("staps", "did you mean 'steps'?", "plain", staps="many"),
    "misspelt kind's key": _fault("knd", "did you mean 'kind'?", "plain", "klein",
                                  kind=None, knd="text2img"),
    "misspelt kind": _fault("kind", "did you mean 'text2img'?", "plain", "klein", "matrix",
                            kind="text2image"),
    "no kind": _fault("kind", "'kind' is required", "plain", "fill", kind=None),
    "kind of nothing": _fault("kind", "is not a kind", "plain", "compose", kind="hologram"),
    "steps": _fault("steps", "less than the minimum", steps=0),
    "guidance": _fault("guidance", "'much' is not a number", guidance="much"),
    "width": _fault("width", "not a multiple of 16", width=100),
    "model's type": _fault("model", "7 is not text", model=7),
    "precision": _fault("precision", "is not one of", precision="fp4"),
    "control": _fault("control", "did you mean 'canny'?", "control", control="cany"),
    "prompt": _fault("prompt", "the prompt is blank", "plain", "klein", "fill", prompt="  "),
    "prompt of matrix": _fault("matrix.prompt[0]", "is not text", "matrix",
                               matrix={"prompt": [7, "a blue star"]}),
    "matrix": _fault("matrix", "7 is not a mapping", "plain", "klein", "control", "of the matrix",
                     matrix=7),
    "model of matrix": _fault("matrix.model[1]", "is not text", "plain",
                              matrix={"model": ["tiny", 7]}),
    "tags": _fault("tags[1]", "duplicate value", tags=["a", "a"]),
    "image": _fault("image", "7 is not text", "fill", "control", needs="kind", image=7),
    "images": _fault("image[0].path", "7 is not text", "redux", needs="kind",
                     image=[{"path": 7}, "b.png"]),
    "no image": _fault("image", "'image' is required", *_IMAGES, needs="kind", image=None),
    "lora's weight": _fault("loras[0].weight", "'a' is not a number", *_TINY, "klein",
                            loras=[{**_LORA, "weight": "a"}]),
    "lora's path": _fault("loras[0].path", "7 is not text", *_TINY, loras=[{"path": 7}, _LORA]),
    "compose": _fault("compose", "7 is not a mapping", "compose", "of the pack", compose=7),
    "no pack": _fault("compose.pack", "'pack' is required", "compose", compose={"subjects": "cup"}),
    "no subject": _fault("compose.subjects", "'subjects' is required", "compose",
                         compose={"pack": "mugs", "variables": "day"}),
    "misspelt subjects": _fault("compose.subjcts", "did you mean 'subjects'?", "compose",
                                compose={"pack": "mugs", "subjcts": "cup", "variables": "day"}),
    "a subject's type": _fault("compose.subjects[1]", "7 is not text", "compose",
                               compose={**_CUP, "subjects": ["cup", 7]}),
    "on_violation": _fault("compose.on_violation", "did you mean 'skip'?", "compose",
                           compose={"pack": "mixed", "subjects": "all", "on_violation": "skpi"}),
    # rules between fields
    "quality": _fault("quality", "`format: webp` only", quality=80),
    "format": _fault("format", "did you mean 'jpeg'?", format="jpg", quality=80),
    "prompt and compose": _fault("prompt", "exclude each other", "compose", prompt="a star"),
    "seed and seeds": _fault("seeds", "exclude each other", "plain", needs="seed", seeds=[1]),
    "id": _fault("id", "a device on Windows", id="con"),
    "window": _fault("window", "opens and closes at the same minute", window="07:00-07:00"),
    "no calendar's date": _fault("not_before", "outside the years 1970 to 9000",
                                 not_before="9999-12-31T23:59:59-14:00"),
    "the last seed": _fault("seeds.count", "passes the last seed", "plain", "compose",
                            seed=None, seeds={"start": 2**32 - 1, "count": 2}),
    # the models
    "unknown model": _fault("model", "did you mean 'tiny'?", *(set(BASES) - {"of the matrix"}),
                            needs="matrix", model="tinny"),
    "model of another kind": _fault("model", "schnell cannot do fill", "fill", needs="kind",
                                    model="schnell"),
    "unknown model of matrix": _fault("matrix.model[1]", "did you mean 'klein'?", "klein",
                                      needs="kind", matrix={"model": ["tiny", "klien"]}),
    "size": _fault("width", "tiny makes only 64×64", *_TINY, needs=f"{MODEL} height", width=128),
    "no guidance": _fault("guidance", "klein has no guidance", "klein", needs=MODEL, guidance=3),
    "fp8": _fault("precision", "not in fp8", *_TINY, "compose", needs=MODEL, precision="fp8"),
    "a map": _fault("control", "canny follows canny, not depth", "control", needs=MODEL,
                    control="depth"),
    "weights of pictures": _fault("image[1].weight", "klein cannot weigh", "redux",
                                  needs="kind matrix image", model="klein"),
    # paths, LoRAs
    "path": _fault("image", "may not contain '..'", "fill", "control", image="../x.png",
                   reason="PathNotAllowed"),
    "mask": _fault("mask", "is outside the inbox", "fill", mask="/etc/x.png",
                   reason="PathNotAllowed"),
    "paths": _fault("image[1].path", "may not contain '..'", "redux",
                    image=["a.png", {"path": "../x.png"}], reason="PathNotAllowed"),
    "lora": _fault("loras[1]", "no .safetensors file", *_TINY, loras=[_LORA, {"path": "a.ckpt"}],
                   reason="InputBad"),
    # packs
    "unknown pack": _fault("compose.pack", "there is no pack 'mgus'", "compose", "of the pack",
                           compose={**_CUP, "pack": "mgus"}, reason="PackMissing"),
    "unknown subject": _fault("compose.subjects", "did you mean 'cup'?", "compose", "of the pack",
                              compose={**_CUP, "subjects": "cpu"}, reason="PackInvalid"),
    "unknown variable": _fault("compose.variables", "did you mean 'night'?", "compose",
                               compose={**_CUP, "variables": ["day", "nihgt"]},
                               reason="PackInvalid"),
    "a torn pack": _fault("torn/pack.json:1:1: name", "is required", "compose",
                          compose={"pack": "torn", "subjects": "all"}, reason="PackInvalid"),
    # forbidden words, the number of images
    "forbidden": _fault("prompt", "'blood' is forbidden", "plain", "klein", "fill",
                        prompt="a pool of blood", reason="PromptForbidden"),
    "forbidden in a matrix": _fault("matrix.prompt[1]", "'blood' is forbidden", "matrix",
                                    matrix={"prompt": ["a star", "blood", "a red circle"]},
                                    reason="PromptForbidden"),
    "forbidden by a block": _fault("compose: subject wound", "in the subject block", "compose",
                                   compose={"pack": "hurt", "subjects": "all"},
                                   reason="PromptForbidden"),
    "too many": _fault("", "10,100 images", "plain", needs="seeds",
                       matrix={"steps": list(range(1, 102)), "guidance": list(range(100))},
                       reason="TooManyImages"),
}  # fmt: skip


@dataclass
class Asker:
    """A home and its models, to assess specs with."""

    home: Home
    catalogue: RegistryCatalogue = field(init=False)

    def __post_init__(self) -> None:
        self.catalogue = RegistryCatalogue(self.home.settings)

    def __call__(self, spec: Mapping[str, Any]) -> Assessment:
        return assess(to_yaml(spec), "a.yaml", self.home, self.catalogue)


def prepare(home: Home) -> None:
    """Put a LoRA file and packs into a home."""
    put(home.root / "loras/ink.safetensors", content())
    variables = {"day": "by day", "night": "by night"}
    subjects = {"cup": "a cup", "mug": "a blue mug"}
    tiny = {"model": "tiny"}
    write_pack(home.prompts, subjects=subjects, variables=variables, defaults=tiny)
    write_pack(home.prompts, "hurt", subjects={"wound": "a pool of blood"}, defaults=tiny)
    mixed = {"cup": "a cup", "wound": "a pool of blood"}
    write_pack(home.prompts, "mixed", subjects=mixed, defaults=tiny)
    torn = write_pack(home.prompts, "torn")
    (torn / "pack.json").write_text('{"schema_version": 1, "id": "torn", "version": "1.0.0"}')


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asker:
    """Assesses specs in a home with packs, a LoRA and a forbidden word, where no weights are."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    home = Home(tmp_path, Settings(lora_roots=("loras",), forbidden=("blood",)))
    prepare(home)
    return Asker(home)


def with_faults(base: str, *names: str) -> Spec:
    """A spec of that form with these faults; a field that is None is left out."""
    spec = dict(BASES[base])
    for name in names:
        spec |= FAULTS[name].fields
    return {key: value for key, value in spec.items() if value is not None}


def told(assessment: Assessment) -> list[tuple[str, str]]:
    """The path and the sentence of each problem."""
    return [(problem.path, problem.message) for problem in assessment.problems]


@pytest.mark.parametrize("base", BASES)
def test_a_spec_without_a_mistake_has_no_problem(ask: Asker, base: str) -> None:
    found = ask(BASES[base])
    assert (found.reason, found.problems) == (None, ()) and found.total >= 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_single_mistake_is_one_problem_with_its_place(ask: Asker, name: str) -> None:
    """Seen red: where a misspelt key is not taken for the one that was meant, for example."""
    fault = FAULTS[name]
    for base in fault.bases:
        found = ask(with_faults(base, name))
        (problem,) = found.problems
        assert (problem.path, found.reason) == (fault.path, fault.reason), (base, problem)
        assert fault.says in problem.message
        document = read(to_yaml(with_faults(base, name)))
        steps = [int(s) if s.isdigit() else s for s in re.findall(r"[^.\[\]:]+", problem.path)]
        steps = ["compose", "pack"] if "/" in problem.path else steps
        places = [document.locate(steps), document.locate(steps, key=True)]
        assert (problem.line, problem.column) in places
        assert problem.message in (found.message or "")


ORDER = ("PathNotAllowed", "InputBad", "PackMissing", "PackInvalid", "PromptForbidden", "models",
         "TooManyImages")  # fmt: skip
MODELS = ("unknown model", "model of another kind", "unknown model of matrix", "size",
          "no guidance", "fp8", "a map", "weights of pictures")  # fmt: skip


def rank(name: str) -> int:
    """The place of a mistake's check in the order of all checks."""
    reason = "models" if name in MODELS else FAULTS[name].reason
    return ORDER.index(reason) if reason in ORDER else -1


def are_independent(one: Fault, other: Fault) -> bool:
    """Whether each of two mistakes is one whatever the other's fields say."""
    return not (one.touches & (other.touches | other.needs) or one.needs & other.touches)


@pytest.mark.parametrize("base", BASES)
def test_of_two_mistakes_both_are_told_and_nothing_besides(ask: Asker, base: str) -> None:
    """Seen red: without `is_unsound` in `_refuse`; where a stage ends the assessment."""
    names = [name for name, fault in FAULTS.items() if base in fault.bases]
    alone = {name: told(ask(with_faults(base, name))) for name in names}
    tried = 0
    for one, other in itertools.combinations(names, 2):
        if FAULTS[one].touches & FAULTS[other].touches:
            continue
        found = ask(with_faults(base, one, other))
        both = sorted(alone[one] + alone[other])
        if are_independent(FAULTS[one], FAULTS[other]):
            assert sorted(told(found)) == both, (one, other)
            first = min(one, other, key=rank)
            assert found.reason == FAULTS[first].reason
            if rank(one) != rank(other):
                assert alone[first][0][1] in (found.message or "")
            tried += 1
        else:
            assert found.problems and set(told(found)) <= set(both), (one, other)
    assert tried > 50


def test_a_default_of_the_settings_is_not_blamed_on_a_spec_that_gave_another(ask: Asker) -> None:
    """Seen red: with what is unsound blamed again."""
    precise = replace(ask.home.settings, defaults={"precision": "fp8"})
    found = Asker(replace(ask.home, settings=precise))(with_faults("plain", "precision"))
    assert [problem.path for problem in found.problems] == ["precision"]
    assert "fp4" in found.problems[0].message


@pytest.mark.parametrize("base", ["plain", "matrix", "klein", "compose"])
def test_a_default_precision_is_for_the_models_that_run_in_it_and_refuses_no_spec(
    base: str, ask: Asker
) -> None:
    """Seen red: `tiny` was refused, which runs in none but its own."""
    precise = replace(ask.home.settings, defaults={"precision": "int8"})
    asker = Asker(replace(ask.home, settings=precise))
    matrix = {**BASES[base].get("matrix", {}), "model": ["tiny", "klein"]}
    for spec in (BASES[base], {**without_model(BASES[base]), "matrix": matrix}):
        assert asker(spec).reason is None
    for model, wanted in (("tiny", "auto"), ("klein", "int8")):
        spec = {"kind": "text2img", "prompt": "a star", "seed": 1, "model": model}
        task = asker.catalogue.task(spec, job="j", index=1, inputs={})
        assert task.precision == wanted
    task = asker.catalogue.task({**spec, "precision": "bf16"}, job="j", index=1, inputs={})
    assert task.precision == "bf16"


def without_model(spec: Spec) -> Spec:
    return {name: part for name, part in spec.items() if name != "model"}


def test_a_side_is_not_judged_by_another_one_that_is_wrong(ask: Asker) -> None:
    large = {"large": {"like": "schnell", "width": 2048, "height": 2048}}
    asker = Asker(replace(ask.home, settings=replace(ask.home.settings, registry=large)))
    spec = {"kind": "text2img", "prompt": "a star", "model": "large", "width": 4096}
    assert [p.path for p in asker({**spec, "height": "1024px"}).problems] == ["height"]
    assert [p.path for p in asker(spec).problems] == ["width"]


def test_no_weights_are_missed_of_a_model_that_nobody_can_know(ask: Asker) -> None:
    spec = {"kind": "control", "prompt": "a star", "image": "a.png", "control": "dpth"}
    asked = assess(to_yaml(spec), "a.yaml", ask.home, ask.catalogue, weights=True)
    assert [problem.path for problem in asked.problems] == ["control"] and asked.absent == ()


def test_after_a_thousand_problems_nothing_more_is_looked_for(ask: Asker) -> None:
    """Seen red: with what lies beyond them taken for sound."""
    matrix = {"prompt": [" "] * 600, "width": ["wide"]}
    found = ask({"kind": "text2img", "model": "tiny", "matrix": matrix})
    assert found.reason == "SchemaInvalid" and len(found.problems) == 21
    assert any("more problems from here on" in problem.message for problem in found.problems)


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 2**32, 0.5, "", " ", "x", "../x", "all", "tiny", "tinny", "control", "canny",
    [], {}, [None], [1, 1], ["a", 1], [[1]], [{}], {"a": 1}, {"path": 7}, {"pack": "mugs"},
    {"prompt": [7, "x"]}, {"start": 1}, {"control": ["canny", 7], "model": ["tiny"]},
)  # fmt: skip
_FIELDS = sorted({name for kind in schemas.kinds() for name in schemas.load(kind)["properties"]})


@st.composite
def broken_specs(draw: st.DrawFn) -> Spec:
    """One of the specs with some fields and parts of fields replaced, added or left out."""
    spec = copy.deepcopy(draw(st.sampled_from(list(BASES.values()))))
    for _ in range(draw(st.integers(1, 6))):
        inside = [part for part in (spec, *spec.values()) if isinstance(part, dict)]
        place = draw(st.sampled_from(inside))
        name = draw(st.sampled_from([*_FIELDS, "pack", "subjects", "start", "model", "control"]))
        if draw(st.booleans()):
            place[name] = copy.deepcopy(draw(st.sampled_from(ODD)))
        else:
            place.pop(name, None)
    return spec


@given(broken_specs())
def test_whatever_is_wrong_the_other_checks_go_on(spec: Spec) -> None:
    """Seen red: with `seeds` kept that lack their count."""
    with TemporaryDirectory() as folder:
        home = Home(Path(folder), Settings(lora_roots=("loras",), forbidden=("blood",)))
        found = Asker(home)(spec)
    assert found.reason != "Internal"
    assert (found.reason is None) == (not found.problems)
    assert len(set(found.problems)) == len(found.problems)


def test_nobody_is_told_to_fetch_weights_for_a_spec_that_is_refused(ask: Asker) -> None:
    for spec in (with_faults("klein", "lora", "misspelt key"), {**BASES["klein"], "guidance": 3}):
        asked = assess(to_yaml(spec), "a.yaml", ask.home, ask.catalogue, weights=True)
        assert asked.reason is not None and asked.absent == ()


def test_absent_weights_are_told_to_who_asks_and_never_put_into_a_status(
    ask: Asker, spool: Spool
) -> None:
    spec = {**BASES["klein"], "loras": [{"repo": "some/ink"}]}
    asked = assess(to_yaml(spec), "a.yaml", ask.home, ask.catalogue, weights=True)
    assert asked.reason is None and asked.warnings == ()
    assert ["models pull some/ink" in text for text in asked.absent] == [True, False]
    assert "models pull klein" in asked.absent[1]
    spool.drop("a.yaml", to_yaml(spec))
    spool.until(lambda: spool.status("a"))
    assert spool.status("a")["warnings"] == []


def test_a_spec_that_reuses_without_a_seed_is_warned_of(ask: Asker) -> None:
    for more, warned in (({}, True), ({"seed": 1}, False), ({"reuse": False}, False)):
        asked = assess(
            to_yaml({**BASES["klein"], "reuse": True, **more}), "a.yaml", ask.home, ask.catalogue
        )
        assert any("reuse: no seed" in text for text in asked.warnings) is warned, more


def test_choices_in_a_plain_prompt_are_warned_of(ask: Asker) -> None:
    ask.home.inbox.mkdir(exist_ok=True)
    (ask.home.inbox / "t.csv").write_text("prompt\na cat\na {red|blue} mug\n")
    plain = {key: value for key, value in BASES["klein"].items() if key != "prompt"}
    for fields, said in (
        ({"prompt": "a {red|blue} mug"}, "{red|blue}"),
        ({"prompt": "a __size__ mug"}, "__size__"),
        ({"matrix": {"prompt": ["a {cat}", "a {red|blue} mug"]}}, "{red|blue}"),
        ({"table": "t.csv"}, "{red|blue}"),
    ):
        asked = assess(to_yaml({**plain, **fields}), "a.yaml", ask.home, ask.catalogue)
        warning = f"prompt: {said} is drawn as it stands: choices are expanded in packs only"
        assert (asked.reason, asked.warnings) == (None, (warning,))


def dropped(spool: Spool, name: str, spec: Spec) -> dict[str, Any]:
    """The status of a spec that was really dropped."""
    spool.drop(f"{name}.yaml", to_yaml(spec))
    return spool.end(name)


def checked(spool: Spool, folder: Path, capsys: pytest.CaptureFixture[str], spec: Spec) -> Any:
    """What `fluxdrop check --json` says of a spec."""
    file = folder / "spec.yaml"
    file.write_bytes(to_yaml(spec))
    result = Here(spool.home.root, capsys)("check", str(file), "--json")
    assert result.code == 1
    return result.json["files"][0]["errors"]


def refused(spool: Spool, spec: Spec) -> list[str]:
    """What a dry run of the tool of its kind says of a spec."""
    tool = next(tool for tool, kind in KIND_OF.items() if kind == spec["kind"])
    arguments = {key: value for key, value in spec.items() if key != "kind"}

    async def scene() -> str:
        async with agent(spool.home.root) as one:
            return await one.refused(tool, **arguments, dry_run=True)

    return [line.removeprefix("- ") for line in play(scene).splitlines()[1:]]


def planned(spool: Spool, capsys: pytest.CaptureFixture[str], spec: Spec) -> str:
    """What `compose --plan` says of a spec with `compose`."""
    compose = spec["compose"]
    command = ["compose", compose["pack"], "--plan", "--json"]
    for part in ("subjects", "variables"):
        names = compose.get(part, [])
        command += [f"--{part}={name}" for name in ([names] if isinstance(names, str) else names)]
    fields = (f"{key}={json.dumps(spec[key])}" for key in spec if key not in ("kind", "compose"))
    sets = itertools.chain.from_iterable(("--set", field) for field in fields)
    result = Here(spool.home.root, capsys)(*command, *sets)
    assert result.code in (1, 2)
    return str(result.json)


TOLD: dict[str, tuple[str, tuple[str, ...]]] = {
    "schema, model, path": ("fill", ("steps", "fp8", "path")),
    "key, prompt, LoRA": ("plain", ("misspelt key", "forbidden", "lora")),
    "rule, model": ("klein", ("quality", "unknown model")),
    "models alone": ("compose", ("fp8",)),
    "pack's words, model": ("compose", ("forbidden by a block", "fp8")),
    "pack, field, model": ("compose", ("unknown subject", "window", "unknown model")),
    "date": ("plain", ("no calendar's date", "window")),
}


@pytest.mark.parametrize("case", TOLD)
def test_the_front_ends_say_word_for_word_what_a_drop_is_answered(
    spool: Spool, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    base, names = TOLD[case]
    prepare(spool.home)
    settings = "settle_seconds: 0.05\nlora_roots: [loras]\nforbidden: [blood]\n"
    (spool.home.root / "fluxdrop.yaml").write_text(settings, encoding="utf-8")
    spool.stop()
    spool.home = find_home(str(spool.home.root))
    spool.start()
    spec = with_faults(base, *names)
    status = dropped(spool, "told", spec)
    assert (status["state"], len(status["errors"])) == ("rejected", len(names))
    assert checked(spool, tmp_path, capsys, spec) == status["errors"]
    sentences = [
        f"{error['path']}: {error['message']}" if error["path"] else error["message"]
        for error in status["errors"]
    ]
    if "image" not in spec:  # the server looks at pictures itself first
        assert refused(spool, spec) == sentences
    if "compose" in spec:
        said = planned(spool, capsys, spec)
        assert [e["message"] for e in status["errors"] if e["message"] not in said] == []


def test_of_thousands_of_problems_a_hundred_are_told_and_how_many_more_there_are(
    ask: Asker,
) -> None:
    """Seen red: each of 5,000 unknown models was told, in a status of a megabyte."""
    models = [f"q{n}" for n in range(5000)]
    found = ask({"kind": "text2img", "prompt": "a", "matrix": {"model": models}})
    assert len(found.problems) == 102
    assert re.fullmatch(r"and \d+ more problems", found.problems[-1].message)


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_what_the_system_refuses_while_a_spec_is_assessed_is_no_mistake_of_the_spec(
    ask: Asker, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: it was rejected for good, as a bug."""
    spec = {
        "kind": "text2img",
        "prompt": "x",
        "model": "tiny",
        "loras": [{"path": "a.safetensors"}],
    }

    def refuse(path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("runner.spool.inbox.loras.is_file", refuse)
    with pytest.raises(OSError) as refused:
        ask(spec)
    assert refused.value.errno == number
    # A process that assesses cannot put it off.
    found = assessed(to_yaml(spec), "a.yaml", ask.home, ask.catalogue)
    assert found.reason == "Unreadable" and "drop the spec again" in (found.message or "")


def test_who_may_not_see_the_runners_own_folder_is_not_told_what_lacks_there(
    ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: "fluxdrop could not judge this spec (a bug)"."""

    def refuse(*given: Any) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", "data")

    monkeypatch.setattr(ask.catalogue, "absent", refuse)
    data = to_yaml({"kind": "text2img", "prompt": "x", "model": "klein"})
    found = assess(data, "a.yaml", ask.home, ask.catalogue, weights=True)
    assert (found.reason, found.absent) == (None, ())


def test_each_prompt_of_a_pack_has_the_model_that_the_pack_gives_it(tmp_path: Path) -> None:
    home = Home(tmp_path, Settings())
    folder = write_pack(home.prompts, subjects={"mug": "a mug", "cup": "a cup"})
    facts = json.loads((folder / "pack.json").read_bytes())
    facts["subjects"] = {"mug": {"defaults": {"model": "schnell"}}}
    (folder / "pack.json").write_text(json.dumps(facts), encoding="utf-8")
    spec = b"kind: text2img\nseed: 1\ncompose: {pack: mugs, subjects: all}\n"
    found = assess(spec, "a.yaml", home, RegistryCatalogue(home.settings, home.data))
    prompts = [fields for fields, _ in found.composed]
    made = [image(found.realised, n, 0, prompts)["model"] for n in range(2)]
    assert made == ["klein", "schnell"]


def test_a_spec_names_receivers_of_the_settings_and_no_others(tmp_path: Path) -> None:
    home = Home(tmp_path, Settings(receivers={"phone": {"command": ["x"]}}))
    home.prepare()
    catalogue = RegistryCatalogue(home.settings, home.data)
    spec = to_yaml({**BASES["plain"], "notify": ["phone", "fone"]})
    told = assess(spec, "hero.yaml", home, catalogue)
    assert told.reason == "SchemaInvalid"
    (problem,) = told.problems
    assert problem.path == "notify[1]" and problem.line
    assert problem.message == "'fone' is none of the settings' receivers: did you mean 'phone'?"
    spec = to_yaml({**BASES["plain"], "notify": ["phone"]})
    fine = assess(spec, "hero.yaml", home, catalogue)
    assert fine.reason is None and fine.realised["notify"] == ["phone"]

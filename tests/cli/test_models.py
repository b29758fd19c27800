"""`models` and `models check`: what there is, what is here, what is missing; offline."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch

from runner.engine.pictures import upscaling
from runner.mcp_server.resources import models as shown_to_agents
from runner.settings import find_home
from tests.cli.here import Here
from tests.engine.hub.pulling import REPO, write
from tests.fake_hub import WEIGHTS, pipeline, put, safetensors


@pytest.fixture(autouse=True)
def _no_account(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(home / "data" / "hf-cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "no-login"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def cached(home: Path, repo: str = REPO) -> Path:
    """A whole pipeline in the home's cache."""
    base = home / "data" / "hf-cache" / "hub" / f"models--{repo.replace('/', '--')}"
    put(base / "refs", {"main": b"c0ffee"})
    return put(base / "snapshots" / "c0ffee", pipeline())


def checked(here: Here, *names: str) -> dict[str, dict[str, object]]:
    done = here("models", "check", *names, "--json")
    assert done.code == (0 if done.json["ok"] else 1)
    return {row["name"]: row for row in done.json["models"]}


def test_own_entries_are_listed_beside_those_that_ship(here: Here) -> None:
    write(here.home, twin=f"{{like: dev, repo: {REPO}, kinds: [text2img], gated: false}}")
    folder = cached(here.home)
    rows = {row["name"]: row for row in here("models", "--json").json["models"]}
    assert rows["twin"]["own"] and not rows["dev"]["own"]
    assert rows["twin"]["present"] and rows["twin"]["path"] == str(folder)
    assert rows["twin"]["bytes_here"] >= sum(map(len, pipeline().values()))
    assert rows["klein"]["default_for"] == sorted(rows["klein"]["kinds"])
    assert rows["dev"]["bytes"] > 34e9, "the prior that is pulled with it counts"
    text = here("models").out
    assert text.count("FLUX-Kommunity-1.0 is for non-commercial use") == 1
    assert rows["klein"]["conditions"] is None and rows["flux3-klein-base"]["conditions"]
    assert "text2img*" in text and "FLUX.1-dev-Non-Commercial, gated" in text


def test_what_a_licence_asks_is_said_whoever_else_names_it_and_where_weights_are_fetched(
    here: Here,
) -> None:
    write(
        here.home,
        mine="{like: flux3-klein, folder: weights}",
        other="{like: dev, folder: weights, licence: FLUX-Kommunity-1.0}",
    )
    assert "FLUX-Kommunity-1.0 is for non-commercial use" in here("models").out
    rows = here("models", "pull", "mine", "other", "tiny", "--json").json["models"]
    assert [bool(row["conditions"]) for row in rows] == [True, False, False]


def test_agents_see_the_same_models_and_no_path_of_this_machine(here: Here) -> None:
    write(here.home, mine="{like: dev, folder: weights}")
    cached(here.home, "black-forest-labs/FLUX.1-Krea-dev")
    rows = {row["name"]: row for row in shown_to_agents(find_home(str(here.home)))}
    assert rows["krea"]["present"] and "mine" in rows
    assert str(here.home) not in json.dumps(list(rows.values()), ensure_ascii=False)


def test_a_whole_model_is_here_and_its_plan_is_told(here: Here) -> None:
    write(here.home, twin=f"{{like: dev, repo: {REPO}, kinds: [text2img]}}")
    cached(here.home)
    row = checked(here, "twin")["twin"]
    assert row["ok"] and row["present"] and row["missing"] == row["advice"] == []
    assert row["plan"], "how it would be held on this machine"


def test_every_file_that_is_missing_or_damaged_is_named_with_what_to_do(here: Here) -> None:
    write(here.home, twin=f"{{like: dev, repo: {REPO}, kinds: [text2img]}}")
    folder = cached(here.home)
    shutil.rmtree(folder / "tokenizer")
    put(folder, {WEIGHTS: safetensors(300_000, 2)[:-1]})
    row = checked(here, "twin")["twin"]
    assert row["missing"] == [f"{REPO}: tokenizer/"]
    assert row["damaged"] == [f"{REPO}: {WEIGHTS}"]
    assert "run `fluxdrop models pull twin`" in str(row["advice"])
    done = here("models", "check")
    assert done.code == 1
    assert "twin: only partly here" in done.out and "dev: not here" in done.out
    assert f"damaged  {REPO}: {WEIGHTS}" in done.out


def test_a_download_that_was_only_begun_is_told_to_go_on(here: Here) -> None:
    blobs = here.home / "data" / "hf-cache" / "hub" / "models--Tongyi-MAI--Z-Image-Turbo" / "blobs"
    blobs.mkdir(parents=True)
    assert here("models", "check").code == 0, "nothing has come"
    (blobs / "c0ffee.incomplete").write_bytes(b"x" * 2_000_000)
    done = here("models", "check")
    assert done.code == 1 and "z-image-turbo: only partly here" in done.out
    assert "models pull z-image-turbo` (it goes on where it broke off)" in done.out
    assert "2.0 MB of it" in here("models").out


def test_a_gated_model_without_a_token_is_told_how_to_get_one(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = str(checked(here, "krea")["krea"]["advice"])
    assert "accept its licence on https://huggingface.co/black-forest-labs/FLUX.1-Krea-dev" in first
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert checked(here, "krea")["krea"]["advice"] == ["run `fluxdrop models pull krea`"]


def test_a_folder_that_is_not_there_is_found_before_a_job_finds_it(here: Here) -> None:
    write(here.home, mine="{like: krea, folder: weights/mine}")
    row = checked(here)["mine"]
    assert not row["ok"] and "correct `registry` in fluxdrop.yaml" in str(row["advice"])
    put(here.home / "weights" / "mine", pipeline())
    assert checked(here)["mine"]["ok"]


def test_an_estimator_can_be_asked_about_too(here: Here) -> None:
    row = checked(here, "depth-anything")["depth-anything"]
    assert not row["ok"] and "models pull depth-anything" in str(row["advice"])


def test_upscalers_are_listed_and_checked_beside_the_models(here: Here) -> None:
    rows = {row["name"]: row for row in here("models", "--json").json["models"]}
    general, tiny = rows["realesr-general"], rows["tiny-upscaler"]
    assert (general["kinds"], general["scale"], general["present"]) == ([], 4, False)
    assert (general["licence"], tiny["present"]) == ("BSD-3-Clause", True)
    text = here("models").out
    assert "upscale, 4×" in text and "upscale, 2×" in text
    row = checked(here, "realesr-general")["realesr-general"]
    assert not row["ok"] and "models pull realesr-general" in str(row["advice"])
    assert checked(here, "tiny-upscaler")["tiny-upscaler"]["ok"]


def test_an_upscaler_of_the_settings_is_missed_where_it_is_not_there(here: Here) -> None:
    file = here.home / "fluxdrop.yaml"
    file.write_text("upscaler: nets/mine.pth\n", encoding="utf-8")
    row = checked(here)["mine.pth"]
    assert not row["ok"] and row["missing"] == [f"{here.home / 'nets'}: mine.pth"]
    found = {each["name"]: each for each in here("doctor", "--json").json["findings"]}
    assert not found["upscaler"]["ok"] and "mine.pth" in found["upscaler"]["found"]
    assert "correct `upscaler` in fluxdrop.yaml" in str(row["advice"])
    folder, made = here.home / "nets", upscaling.build(8, 3, 4).body.state_dict()
    for state, said in (
        (b"net", "damaged"),
        (functools.partial(print), "damaged, or is no compact net"),
        ({"other": torch.zeros(1)}, "is no compact net"),
        (made, None),
    ):
        folder.mkdir(exist_ok=True)
        if isinstance(state, bytes):
            (folder / "mine.pth").write_bytes(state)
        else:
            torch.save(state, folder / "mine.pth")
        row = checked(here)["mine.pth"]
        found = {each["name"]: each for each in here("doctor", "--json").json["findings"]}
        assert row["ok"] == found["upscaler"]["ok"] == (said is None)
        assert not said or (said in row["advice"][0] and said in found["upscaler"]["found"])
    file.write_text("", encoding="utf-8")
    found = {each["name"]: each for each in here("doctor", "--json").json["findings"]}
    assert found["upscaler"]["ok"] and "models pull realesr-general" in found["upscaler"]["found"]


def test_a_default_model_that_there_is_not_is_found(here: Here) -> None:
    settings = here.home / "fluxdrop.yaml"
    settings.write_text("models: {text2img: kre, fill: krea}\n", encoding="utf-8")
    done = here("models", "check")
    assert done.code == 1
    assert "models.text2img: there is no model 'kre': did you mean 'krea'?" in done.out
    assert "models.fill: krea does not serve fill" in done.out


def test_a_machine_where_nothing_was_fetched_has_nothing_wrong(here: Here) -> None:
    assert here("models", "check").code == 0


def test_a_model_that_is_asked_for_is_missed_whether_by_name_or_in_the_settings(here: Here) -> None:
    """Seen red: 0 for a home whose default model was not there."""
    assert here("models", "check", "krea").code == 1
    (here.home / "fluxdrop.yaml").write_text("models: {text2img: krea}\n", encoding="utf-8")
    assert here("models", "check").code == 1


def test_a_name_that_nothing_has_is_wrong_usage(here: Here) -> None:
    done = here("models", "check", "kre")
    assert done.code == 2 and "did you mean 'krea'?" in done.err


def test_a_mistake_in_an_own_entry_is_told_by_every_verb_that_reads_models(here: Here) -> None:
    write(here.home, mine="{like: nothing}")
    (here.home / "a.yaml").write_text("kind: text2img\nprompt: x\n", encoding="utf-8")
    for verb in (["models"], ["models", "check"], ["check", str(here.home / "a.yaml")]):
        done = here(*verb)
        assert done.code == 2 and "fluxdrop.yaml:2:16: registry.mine.like" in done.err

"""What `models pull` fetches, what it leaves, what it shows, and what it never does."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.engine import custom_entries
from runner.engine.entries import UPSCALERS
from runner.engine.hub import pull
from runner.engine.hub.cache import CachedCommit
from runner.engine.hub.sources import Source
from runner.engine.hub.transfer import Remote
from runner.errors import DiskFull
from tests import random_twin
from tests.engine.hub.pulling import REPO, TOKEN, Pull, partial, repo_folder, snapshot, write
from tests.fake_hub import WEIGHTS, FakeHub, Repo, files_of, safetensors

REDUX = "black-forest-labs/FLUX.1-Redux-dev"
DEPTH = "depth-anything/Depth-Anything-V2-Small-hf"
UNION = "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union-2.1"


def test_a_pulled_model_has_the_files_that_diffusers_reads_and_no_others(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    files = hub.repos[REPO].files
    needed = dict(files)
    others = [
        "flux1-dev.safetensors",
        "ae.safetensors",
        "README.md",
        "assets/grid.json",
        "image_encoder/model.safetensors",
        "text_encoder/flax_model.msgpack",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/pytorch_model.bin",
        "transformer/diffusion_pytorch_model.safetensors.index.fp16.json",
        "transformer/model.onnx",
        "transformer/onnx/config.json",
    ]
    files |= dict.fromkeys(others, b"not needed")
    done = pulled()
    assert done.code == 0 and done.out == f"twin is here: {snapshot(own)}\n"
    assert files_of(snapshot(own)) == needed


def test_of_a_modular_pipeline_all_is_fetched_but_its_upsampler_and_its_conditions_are_told(
    hub: FakeHub, own: Path, pulled: Pull, tmp_path: Path
) -> None:
    write(own, twin=f"{{like: flux3-klein, repo: {REPO}}}")
    needed = files_of(random_twin.folder("flux3", tmp_path))
    upsampler = {f"prompt_upsampler/{name}": b"{}" for name in ("config.json", "model.safetensors")}
    hub.repos[REPO].files = {**needed, **upsampler}
    done = pulled()
    assert done.code == 0 and files_of(snapshot(own)) == needed
    first = done.err.splitlines()[0]
    assert first.startswith("twin: FLUX-Kommunity-1.0 is for non-commercial use, and for")
    write(own, twin=f"{{like: flux3-klein, repo: {REPO}, licence: MIT}}")
    assert "Kommunity" not in pulled().err


def test_weights_in_pieces_are_fetched_with_their_list_and_nothing_twice(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    files = hub.repos[REPO].files
    stem = WEIGHTS.removesuffix(".safetensors")
    pieces = {f"{stem}-0000{n}-of-00002.safetensors": safetensors(1000, n) for n in (1, 2)}
    names = ", ".join(f'"{n}": "{Path(name).name}"' for n, name in enumerate(pieces))
    whole = {WEIGHTS + ".index.json": b'{"weight_map": {%s}}' % names.encode(), **pieces}
    files |= whole
    assert pulled().code == 0
    assert set(files_of(snapshot(own) / "transformer")) == {
        "config.json",
        *(Path(name).name for name in whole),
    }
    assert pulled("twin", "--json").json["models"][0]["fetched"] == 0


def test_a_terminal_shows_bars_and_everything_else_a_line_for_each_tenth(
    hub: FakeHub, pulled: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = pulled().err.splitlines()
    assert lines[0] == "twin: 350.2 kB to come" and 1 < len(lines) <= 10
    hub.repos["artist/style"] = Repo({"style.safetensors": safetensors(10**6, 1)})
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = pulled("artist/style")
    assert "1.0/1.0 MB" in shown.err and "to come" not in shown.err
    assert "\x1b" not in shown.out
    assert pulled("artist/style", "--json").err == ""


def test_the_token_goes_to_the_hub_and_never_to_its_storage_or_a_file(
    hub: FakeHub, own: Path, pulled: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[REPO].gated = True
    hub.accounts[TOKEN].add(REPO)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = pulled()
    assert done.code == 0 and TOKEN not in done.out + done.err
    assert {seen.token for seen in hub.seen if not seen.storage} == {TOKEN}
    stored = [seen for seen in hub.seen if seen.storage]
    assert stored and {seen.token for seen in stored} == {None}
    assert all(TOKEN.encode() not in data for data in files_of(own).values())


def test_a_log_in_without_any_setting_is_used(hub: FakeHub, own: Path, pulled: Pull) -> None:
    hub.repos[REPO].gated = True
    hub.accounts[TOKEN].add(REPO)
    file = own / "no-login" / "huggingface" / "token"
    file.parent.mkdir(parents=True)
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert pulled().code == 0


def test_too_small_a_disk_is_told_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=5 * 10**9)
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: free)
    weights = Remote(WEIGHTS, 24 * 10**9, "0" * 64)
    share = pull.Share(
        Source(REPO),
        CachedCommit(tmp_path, "c0ffee", url="", headers={}, again=""),
        (weights,),
        (weights,),
    )
    with pytest.raises(DiskFull, match=r"24\.0 GB have to come and 5\.0 GB are free.*20\.1 GB"):
        pull.check_room([share], tmp_path, again="fluxdrop models pull twin")
    pull.check_room([], tmp_path, again="fluxdrop models pull twin")


def test_one_name_that_fails_does_not_keep_the_others(pulled: Pull) -> None:
    done = pulled("krea", "twin", "tiny")
    assert done.code == 1
    assert "there is no black-forest-labs/FLUX.1-Krea-dev" in done.err
    assert [line.split(" is here")[0] for line in done.out.splitlines()] == ["twin", "tiny"]


def test_a_name_that_nothing_has_is_wrong_usage_with_a_suggestion(pulled: Pull) -> None:
    done = pulled("twin", "kontext-de")
    assert done.code == 2 and "did you mean 'kontext-dev'" in done.err
    assert pulled("twin", "--file", "x.safetensors").code == 2


def test_two_pulls_of_one_file_do_not_get_into_each_others_way(
    hub: FakeHub, own: Path, pulled: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import WeakFileLock

    monkeypatch.setattr(
        "huggingface_hub.utils.WeakFileLock", lambda lock, timeout: WeakFileLock(lock, timeout=0.1)
    )

    etag = partial(own, hub.repos[REPO].files[WEIGHTS]).name.partition(".")[0]
    lock = repo_folder(own).parent / ".locks" / repo_folder(own).name / f"{etag}.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        done = pulled()
    assert done.code == 1 and "another process is fetching" in done.err
    assert pulled().code == 0


def test_a_prior_and_an_estimator_come_with_the_model_that_needs_them(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    alone = {"config.json": b"{}", "preprocessor_config.json": b"{}", "README.md": b"x"}
    hub.repos[DEPTH] = Repo({**alone, "model.safetensors": safetensors(10, 1)})
    hub.repos[REDUX] = Repo(dict(hub.repos[REPO].files))
    write(own, mine=f"{{like: dev, repo: {REPO}}}", deep=f"{{like: depth, repo: {REPO}}}")
    assert pulled("mine", "deep").code == 0
    assert (snapshot(own, REDUX) / "model_index.json").is_file()
    brought = {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert set(files_of(snapshot(own, DEPTH))) == brought
    assert pulled("depth-anything", "--json").json["models"][0]["fetched"] == 0


def test_of_a_controlnets_repository_one_file_comes_beside_the_pipeline_and_the_estimator(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    file = "Z-Image-Turbo-Fun-Controlnet-Union-2.1-2602-8steps.safetensors"
    others = {"README.md": b"x", "lite-8steps.safetensors": safetensors(10, 2)}
    hub.repos[UNION] = Repo({file: safetensors(10, 1), **others})
    alone = {"config.json": b"{}", "preprocessor_config.json": b"{}"}
    hub.repos[DEPTH] = Repo({**alone, "model.safetensors": safetensors(10, 1)})
    write(own, mine=f"{{like: z-image-control, repo: {REPO}}}")
    done = pulled("mine", "--json")
    assert done.code == 0 and set(files_of(snapshot(own, UNION))) == {file}
    assert (snapshot(own) / "model_index.json").is_file() and snapshot(own, DEPTH).is_dir()
    assert pulled("mine", "--json").json["models"][0]["fetched"] == 0


def test_an_upscaler_is_the_one_file_of_its_repository(
    hub: FakeHub, own: Path, pulled: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: a file that every job refuses was fetched."""
    general, anime = (UPSCALERS[name] for name in ("realesr-general", "realesr-anime"))
    assert general.repo == anime.repo
    hub.repos[general.repo] = Repo({general.file: b"net", anime.file: b"other", "a.pth": b"x"})
    refused = pulled("realesr-general")
    assert refused.code == 1 and "than its makers published" in refused.err
    assert not (repo_folder(own, general.repo) / "refs").exists(), "it is not used"
    published = replace(general, sha256=hashlib.sha256(b"net").hexdigest())
    monkeypatch.setattr(custom_entries, "DEFAULT_UPSCALER", published)
    assert pulled("realesr-general").code == 0
    assert files_of(snapshot(own, general.repo)) == {general.file: b"net"}
    assert pulled("realesr-anime").code == 0
    assert set(files_of(snapshot(own, general.repo))) == {general.file, anime.file}
    assert pulled("realesr-general", "--json").json["models"][0]["fetched"] == 0
    assert "it is built in" in pulled("tiny").out
    assert pulled("tiny-upscaler").code == 0


def test_lora_files_are_pulled_by_the_name_of_their_repository(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    hub.repos["artist/style"] = Repo({"style.safetensors": b"lora", "README.md": b"x"})
    hub.repos["artist/many"] = Repo({"a.safetensors": b"a", "b.safetensors": b"b"})
    assert pulled("artist/style").code == 0
    assert files_of(snapshot(own, "artist/style")) == {"style.safetensors": b"lora"}
    unclear = pulled("artist/many")
    assert unclear.code == 1
    assert "choose with --file one of a.safetensors, b.safetensors" in unclear.err
    assert pulled("artist/many", "--file", "c.safetensors").code == 1
    assert pulled("artist/many", "--file", "b.safetensors").code == 0
    assert files_of(snapshot(own, "artist/many")) == {"b.safetensors": b"b"}


def test_a_single_file_takes_the_place_of_the_transformers_weights(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    hub.repos["someone/gguf"] = Repo({"q4.gguf": b"GGUF...", "q8.gguf": b"GGUF...."})
    twin = f"{{like: dev, repo: {REPO}, kinds: [text2img]}}"
    write(own, twin=twin, small="{like: twin, repo: someone/gguf, file: q4.gguf}")
    assert pulled("small").code == 0
    assert files_of(snapshot(own, "someone/gguf")) == {"q4.gguf": b"GGUF..."}
    assert (snapshot(own) / "transformer/config.json").is_file()
    assert not (snapshot(own) / WEIGHTS).exists()


def test_a_repository_cannot_write_outside_its_own_folder(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    files = hub.repos[REPO].files
    files["model_index.json"] = files["model_index.json"].replace(b'"image_encoder"', b'".."')
    files["model_index.json"] = files["model_index.json"].replace(b"[null, null]", b'["a", "B"]')
    files["../escaped.json"] = b"{}"
    pulled()
    assert not list(own.rglob("escaped.json"))


def test_a_cache_without_links_holds_the_files_themselves(
    hub: FakeHub, own: Path, pulled: Pull, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows without developer mode."""

    def refuse(*given: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert pulled().code == 0
    assert files_of(snapshot(own)) == hub.repos[REPO].files
    assert not any(path.is_symlink() for path in snapshot(own).rglob("*"))
    assert pulled("twin", "--json").json["models"][0]["fetched"] == 0

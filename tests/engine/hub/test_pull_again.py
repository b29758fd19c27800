"""What `models pull` does with what is here already: whole, begun, damaged, or outdated."""

from __future__ import annotations

from pathlib import Path

from tests.engine.hub.pulling import NOWHERE, REPO, Pull, partial, snapshot, write
from tests.fake_hub import WEIGHTS, FakeHub, Fault, Repo, files_of, safetensors


def starts(hub: FakeHub, name: str = WEIGHTS) -> list[int]:
    """From which byte on a file was fetched from the storage, each time."""
    return [seen.start for seen in hub.seen if seen.storage and seen.path.endswith(f"/{name}")]


def changed(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same files but for the transformer's weights."""
    return {**files, WEIGHTS: safetensors(300_000, 9)}


def test_what_is_here_is_not_fetched_again(hub: FakeHub, pulled: Pull) -> None:
    pulled()
    before = len(hub.seen)
    row = pulled("twin", "--json").json["models"][0]
    assert row["ok"] and row["fetched"] == 0 and row["bytes"] > 350_000
    assert [seen.path for seen in hub.seen[before:]] == [f"/api/models/{REPO}/revision/main"]


def test_a_beginning_that_is_wrong_is_fetched_again_from_the_start(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    whole = hub.repos[REPO].files[WEIGHTS]
    partial(own, whole).write_bytes(bytes(100_000))
    assert pulled().code == 0
    assert starts(hub) == [100_000, 0]
    assert (snapshot(own) / WEIGHTS).read_bytes() == whole


def test_a_storage_that_cannot_go_on_is_asked_for_the_whole_file(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    whole = hub.repos[REPO].files[WEIGHTS]
    partial(own, whole).write_bytes(whole[:100_000])
    hub.ranges = False
    assert pulled().code == 0
    assert starts(hub) == [100_000]
    assert (snapshot(own) / WEIGHTS).read_bytes() == whole


def test_a_short_break_of_the_connection_is_no_failure(hub: FakeHub, pulled: Pull) -> None:
    hub.faults[WEIGHTS] = Fault(after=100_000, times=1)
    assert pulled().code == 0
    assert starts(hub) == [0, 100_000]


def test_a_damaged_file_is_found_by_verify_and_fetched_again(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    pulled()
    file = snapshot(own) / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"\xff")
    assert pulled("twin", "--json").json["models"][0]["fetched"] == 0
    repaired = pulled("twin", "--verify", "--json").json["models"][0]
    assert repaired["fetched"] == len(content)
    assert (snapshot(own) / WEIGHTS).read_bytes() == content


def test_a_file_that_was_cut_short_is_fetched_again(hub: FakeHub, own: Path, pulled: Pull) -> None:
    pulled()
    file = snapshot(own) / WEIGHTS
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert pulled().code == 0
    assert (snapshot(own) / WEIGHTS).read_bytes() == content


def test_the_same_content_in_another_repository_is_not_fetched_again(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    twin = f"{{like: dev, repo: {REPO}, kinds: [text2img]}}"
    write(own, twin=twin, second="{like: twin, repo: someone/second}")
    pulled()
    hub.repos["someone/second"] = Repo(changed(hub.repos[REPO].files))
    row = pulled("second", "--json").json["models"][0]
    stored = {seen.path for seen in hub.seen if seen.storage and "/second/" in seen.path}
    assert stored == {f"/someone/second/blobs/{WEIGHTS}"}
    assert row["fetched"] < row["bytes"]
    assert files_of(snapshot(own, "someone/second")) == hub.repos["someone/second"].files


def test_a_branch_that_moved_is_followed_only_when_all_of_it_is_here(
    hub: FakeHub, own: Path, pulled: Pull
) -> None:
    pulled()
    old = snapshot(own)
    hub.repos[REPO] = Repo(changed(hub.repos[REPO].files), commit="beef" * 10)
    hub.faults[WEIGHTS] = Fault(status=404)
    assert pulled().code == 1 and snapshot(own) == old
    hub.faults.clear()
    assert pulled().code == 0 and snapshot(own) != old
    assert files_of(snapshot(own)) == hub.repos[REPO].files


def test_what_is_here_stays_good_when_the_hub_cannot_be_asked(pulled: Pull) -> None:
    pulled()
    pulled.point_to(NOWHERE)
    done = pulled()
    assert done.code == 0 and done.out.startswith("twin is here")
    assert "nothing newer was looked for" in done.err

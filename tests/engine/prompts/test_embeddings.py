"""Encoded prompts are kept, in memory and on disk, byte by byte, bounded, never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.engine.prompts.embeddings import Encoded, PromptCache, key_of

BIG = 2**30


def encoded(value: float = 0.5, length: int = 8) -> Encoded:
    import torch

    generator = torch.Generator().manual_seed(int(value * 1000))
    return Encoded(
        {
            "prompt_embeds": torch.rand(1, length, 32, generator=generator).to(torch.bfloat16),
            "pooled_prompt_embeds": torch.rand(1, 32, generator=generator),
        },
        ("its end was not read",),
    )


def same(one: Encoded | None, other: Encoded) -> bool:
    import torch

    assert one is not None
    return one.warnings == other.warnings and all(
        one.embeddings[name].dtype == tensor.dtype and torch.equal(one.embeddings[name], tensor)
        for name, tensor in other.embeddings.items()
    )


def test_what_comes_back_from_the_disk_is_what_was_kept(tmp_path: Path) -> None:
    PromptCache(tmp_path / "e", BIG, size=0).put("key", encoded())
    again = PromptCache(tmp_path / "e", BIG, size=0)
    assert again.has("key") and not again.has("other")
    assert same(again.get("key", "cpu"), encoded())
    assert again.get("other", "cpu") is None


def test_embeddings_that_are_lists_of_tensors_keep_their_order(tmp_path: Path) -> None:
    import torch

    rows = [torch.full((number + 1, 4), float(number)) for number in range(12)]
    store = PromptCache(tmp_path, BIG, size=0)
    store.put("key", Encoded({"prompt_embeds": rows}))
    kept = store.get("key", "cpu")
    assert kept is not None
    assert [each.tolist() for each in kept.embeddings["prompt_embeds"]] == [
        each.tolist() for each in rows
    ]


def test_of_large_embeddings_fewer_stay_in_memory_but_always_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = encoded()
    size = sum(tensor.nbytes for tensor in one.embeddings.values())
    monkeypatch.setattr("runner.engine.prompts.embeddings._IN_MEMORY", 2 * size + 1)
    store = PromptCache()
    for name in ("a", "b", "c"):
        store.put(name, one)
    assert [store.has(name) for name in ("a", "b", "c")] == [False, True, True]
    assert store.capacity(one) == 2
    monkeypatch.setattr("runner.engine.prompts.embeddings._IN_MEMORY", 1)
    store.put("d", one)
    assert [store.has(name) for name in ("c", "d")] == [False, True]
    assert store.capacity(one) == 1


@pytest.mark.parametrize("damage", ["emptied", "cut", "zeroed", "nonsense"])
def test_a_damaged_file_is_removed_and_made_again(damage: str, tmp_path: Path) -> None:
    store = PromptCache(tmp_path, BIG, size=0)
    store.put("key", encoded())
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(
        {
            "emptied": b"",
            "cut": content[:-1],
            "zeroed": content[:-64] + bytes(64),
            "nonsense": b"{" * 100,
        }[damage]
    )
    assert store.get("key", "cpu") is None
    assert not list(tmp_path.iterdir())
    store.put("key", encoded())
    assert same(store.get("key", "cpu"), encoded())


def test_the_prompts_used_longest_ago_make_room_on_the_disk(tmp_path: Path) -> None:
    store = PromptCache(tmp_path, 3000, size=0)  # each takes about 950 bytes
    assert store.capacity(encoded()) == 4
    for number, name in enumerate("abc"):
        store.put(name, encoded(number / 10))
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        os.utime(file, (number + 1, number + 1))
    store.get("b", "cpu")
    store.put("d", encoded(0.9))
    assert store.has("b") and store.has("d")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
    assert len(list(tmp_path.iterdir())) < 4


def test_what_a_dead_process_left_aside_goes_first(tmp_path: Path) -> None:
    file = tmp_path / ".half.safetensors.123"
    file.write_bytes(bytes(2500))
    os.utime(file, (1, 1))
    store = PromptCache(tmp_path, 3000, size=0)
    store.put("a", encoded())
    assert [file.name.startswith(".") for file in tmp_path.iterdir()] == [False]


def test_what_another_process_is_writing_stays_and_what_it_removes_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".half.safetensors.123").write_bytes(b"half")
    (tmp_path / "gone.safetensors").symlink_to("nowhere")
    store = PromptCache(tmp_path, 3000, size=0)
    store.put("a", encoded())
    assert (tmp_path / ".half.safetensors.123").exists()
    assert same(store.get("a", "cpu"), encoded())


def test_a_folder_that_cannot_be_written_keeps_nothing_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = PromptCache(tmp_path / "file", BIG, size=0)
    store.put("key", encoded())
    assert store.get("key", "cpu") is None


def test_the_memory_holds_the_newest_and_the_disk_the_rest(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, BIG, size=2)
    for number, name in enumerate("abc"):
        cache.put(name, encoded(number / 10))
    assert len(cache._kept) == 2
    assert same(cache.get("a", "cpu"), encoded(0.0))
    cache.clear()
    assert len(cache._kept) == 0 and cache.has("b")


def test_without_a_disk_the_oldest_is_forgotten() -> None:
    cache = PromptCache(size=2)
    for number, name in enumerate("abc"):
        cache.put(name, encoded(number / 10))
    assert cache.get("a", "cpu") is None
    assert same(cache.get("c", "cpu"), encoded(0.2))


def test_whatever_changes_the_numbers_changes_the_key() -> None:
    plain = ("flux1 t5=ab bf16 cpu", "a fox", 512, {"torch": "2.13"})
    others = [
        ("flux1 t5=cd bf16 cpu", *plain[1:]),
        (plain[0], "a fox ", *plain[2:]),
        (*plain[:2], 256, plain[3]),
        (*plain[:3], {"torch": "2.14"}),
    ]
    assert len({key_of(*each) for each in [plain, *others, plain]}) == 5

"""Trains the two text encoders on the meaning of sentences, without any picture.

From T5's output for each token a linear head must predict which thing the word describes and that
thing's attributes; from CLIP's one vector another must predict the whole scene. Then both encoders
are frozen. The transformer gets prompts whose meaning is already resolved, and so trains in
minutes. Do not train the encoders further once a transformer exists.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.engine.tiny.captions import (
    NOTHING,
    Meaning,
    Sentence,
    describe,
    describe_plainly,
    describe_thing,
)
from tests.engine.tiny.edits import draw_edit, instruct
from tests.engine.tiny.loop import Optimizers, Progress, quick, schedule
from tests.engine.tiny.tokenizers import CLIP_LENGTH, T5_LENGTH, capital_pairs
from tests.engine.tiny.vocabulary import COLOURS, SHAPES, SIZES
from tests.engine.tiny.world import SLOTS, draw_seen_scene

WIDTH = 128
_KINDS: tuple[str, ...] = ("", "colour", "shape", "size", "background", "place")
_KINDS += ("new colour", "new shape", "new background")
_SLOT_NAMES = tuple(slot for slots in SLOTS.values() for slot in slots)
_SLOTS = ("", *_SLOT_NAMES, "background", "edited")
_TABLES: tuple[tuple[str, ...], ...] = (
    _KINDS,
    _SLOTS,
    ("", *COLOURS),
    ("", *SHAPES),
    ("", *SIZES),
)
_INDEX = tuple({name: n for n, name in enumerate(table)} for table in _TABLES)
_SCENE_SLOTS = (*_SLOT_NAMES, "background", "edited")


def build_t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    """An untrained T5 encoder: token numbers (n, length) to (n, length, WIDTH)."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return T5EncoderModel(config)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder, whose pooled output is (n, WIDTH)."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class Reader:
    """Turns words into token numbers as the tokenizers do, but faster: it caches each word's."""

    def __init__(self, t5: T5TokenizerFast, clip: CLIPTokenizer) -> None:
        self._t5, self._clip = t5, clip
        self._pad, self._start = t5.pad_token_id, clip.bos_token_id
        self._t5_end, self._clip_end = t5.eos_token_id, clip.eos_token_id
        self._cache: dict[str, tuple[list[int], list[int]]] = {}

    def _numbers(self, word: str) -> tuple[list[int], list[int]]:
        if word not in self._cache:
            t5 = self._t5(word, add_special_tokens=False).input_ids
            if word in (",", "."):  # follows a word without a space, so not the piece with a space
                t5 = [self._t5.convert_tokens_to_ids(word)]
            self._cache[word] = (t5, self._clip(word, add_special_tokens=False).input_ids)
        return self._cache[word]

    def t5(self, words: Sequence[str]) -> list[int]:
        """T5's numbers with the end mark, as its tokenizer returns them."""
        return [n for word in words for n in self._numbers(word)[0]] + [self._t5_end]

    def clip(self, words: Sequence[str]) -> list[int]:
        """CLIP's numbers with the start and end marks, at most CLIP_LENGTH."""
        inner = [n for word in words for n in self._numbers(word)[1]]
        return [self._start, *inner[: CLIP_LENGTH - 2], self._clip_end]

    def t5_batch(self, sentences: Sequence[Sequence[str]], length: int) -> Tensor:
        """T5's numbers as int64 (n, length): padded, or cut as the pipeline cuts long prompts."""
        rows = [self.t5(words) for words in sentences]
        rows = [row if len(row) <= length else [*row[: length - 1], self._t5_end] for row in rows]
        return torch.tensor([row + [self._pad] * (length - len(row)) for row in rows])

    def clip_batch(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """CLIP's numbers as int64 (n, longest).

        CLIP's attention is causal, so padding after the end changes nothing.
        """
        rows = [self.clip(words) for words in sentences]
        length = max(len(row) for row in rows)
        return torch.tensor([row + [self._clip_end] * (length - len(row)) for row in rows])

    def meanings(self, sentences: Sequence[Sentence], length: int) -> Tensor:
        """The meaning of each T5 token as int64 (n, length, 5): indices into _TABLES."""
        rows = []
        for sentence in sentences:
            row = []
            for word, meaning in zip(sentence.words, sentence.meanings, strict=True):
                row += [_numbers_of(meaning)] * len(self._numbers(word)[0])
            row = [*row[: length - 1], _numbers_of(sentence.end)]
            rows.append(row + [_numbers_of(NOTHING)] * (length - len(row)))
        return torch.tensor(rows)


def _numbers_of(meaning: Meaning) -> list[int]:
    return [index[name] for index, name in zip(_INDEX, meaning, strict=True)]


def _scene_numbers(sentence: Sentence) -> list[int]:
    """What CLIP's vector must predict: colour, shape and size of each slot, and what is new."""
    attributes: dict[str, list[int]] = {slot: [0, 0, 0] for slot in _SCENE_SLOTS}
    new = [0, 0, 0]
    for meaning in [*sentence.meanings, sentence.end]:
        numbers = _numbers_of(meaning)
        if meaning.kind.startswith("new"):
            new = [numbers[0], numbers[2], numbers[3]]
        elif meaning.slot in attributes:
            pairs = zip(attributes[meaning.slot], numbers[2:], strict=True)
            attributes[meaning.slot] = [max(pair) for pair in pairs]
    return [n for slot in _SCENE_SLOTS for n in attributes[slot]] + new


_CLIP_SIZES = [len(table) for _ in _SCENE_SLOTS for table in _TABLES[2:]]
_CLIP_SIZES += [len(_KINDS), len(_TABLES[2]), len(_TABLES[3])]


class Encoders(nn.Module):
    """Both encoders with the linear heads that only their training needs."""

    def __init__(self, t5: T5EncoderModel, clip: CLIPTextModel) -> None:
        super().__init__()
        self.t5, self.clip = t5, clip
        self.word_heads = nn.Linear(WIDTH, sum(len(table) for table in _TABLES))
        self.scene_heads = nn.Linear(WIDTH, sum(_CLIP_SIZES))


def draw_sentence(rng: random.Random) -> Sentence:
    """A random sentence of the sorts that the five kinds are given as prompts."""
    chance = rng.random()
    if chance < 0.3:
        return instruct(rng, draw_edit(rng))
    scene = draw_seen_scene(rng)
    if chance < 0.36:
        return describe_thing(rng, scene.things[0], "centre")
    if chance < 0.40:
        return describe_plainly(scene)
    if chance < 0.48:
        return describe(rng, scene, size=False, shape=rng.random() < 0.5)
    return describe(rng, scene)


def _loss_and_accuracy(
    logits: Tensor, sizes: Sequence[int], truth: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted cross entropy, and the part of the outputs with every prediction right.

    `logits` are (…, sum of sizes): one group of classes for each prediction; `truth` is int64
    (…, predictions), `weight` (…). The part counts only outputs with a weight above 0.5.
    """
    loss = torch.zeros((), device=logits.device)
    right = torch.ones_like(weight, dtype=torch.bool)
    for number, part in enumerate(logits.float().split(list(sizes), -1)):
        wrong = functional.cross_entropy(
            part.transpose(1, -1), truth[..., number], reduction="none"
        )
        loss = loss + (wrong * weight).sum() / weight.sum()
        right &= part.argmax(-1) == truth[..., number]
    return loss, right[weight > 0.5].float().mean()


def train_encoders(
    tokenizers: tuple[T5TokenizerFast, CLIPTokenizer],
    checkpoint: Path,
    steps: int,
    seed: int,
    device: torch.device,
) -> Encoders:
    """Train both encoders together, from a checkpoint if there is one."""
    torch.manual_seed(seed)
    t5_tokenizer, clip_tokenizer = tokenizers
    model = Encoders(build_t5(t5_tokenizer), build_clip(clip_tokenizer)).to(device)
    reader = Reader(t5_tokenizer, clip_tokenizer)
    optimizers = Optimizers(model, 2e-3, plain=_is_plain)
    progress = Progress("encoders", checkpoint, steps, model, optimizers)
    for step, done in progress.steps():
        rng = random.Random(f"encoders {seed} {step}")
        length = rng.choices((32, 64, 128, T5_LENGTH), (70, 20, 5, 5))[0]
        sentences = [draw_sentence(rng) for _ in range(64 if length < 128 else 16)]
        words = [sentence.words for sentence in sentences]
        truth = reader.meanings(sentences, length).to(device)
        numbers = reader.t5_batch(words, length).to(device)
        weight = torch.where(numbers == t5_tokenizer.pad_token_id, 0.05, 1.0)
        with quick(device):
            word_logits = model.word_heads(model.t5(input_ids=numbers).last_hidden_state)
            pooled = model.clip(input_ids=reader.clip_batch(words).to(device)).pooler_output
            scene_logits = model.scene_heads(pooled)
        sizes = [len(table) for table in _TABLES]
        word_loss, word_right = _loss_and_accuracy(word_logits, sizes, truth, weight)
        scenes = torch.tensor([_scene_numbers(one) for one in sentences], device=device)
        even = torch.ones(len(sentences), device=device)
        scene_loss, scene_right = _loss_and_accuracy(scene_logits, _CLIP_SIZES, scenes, even)
        optimizers.step(
            word_loss + 0.5 * scene_loss, min(1, (step + 1) / 60) * schedule(done, flat_until=0.4)
        )
        progress.note(
            step,
            word_loss=word_loss.detach(),
            words=word_right,
            scene_loss=scene_loss.detach(),
            scenes=scene_right,
        )
    with torch.no_grad():  # "Red" and "RED" get the embedding of "red"
        rows = model.t5.get_input_embeddings().weight
        for capital, plain in capital_pairs(t5_tokenizer):
            rows[capital] = rows[plain]
    return model


def _is_plain(name: str) -> bool:
    """Whether AdamW trains a weight: embeddings and heads are no inner matrices for Muon."""
    return any(part in name for part in ("embed", "shared", "heads", "relative_attention_bias"))

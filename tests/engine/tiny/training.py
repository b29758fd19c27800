"""Trains the transformer of one kind on a pool of encoded examples.

The base (text2img) is trained first; the others start from its weights. The text encoders and the
VAE's encoder are frozen. They must be the shipped ones: a transformer works with no others.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from tests.engine.tiny.captions import Sentence, describe_plainly
from tests.engine.tiny.encoders import Reader
from tests.engine.tiny.examples import DRAW, Ask, Examples
from tests.engine.tiny.loop import Optimizers, Progress, quick, schedule
from tests.engine.tiny.render import arrange, offsets, render
from tests.engine.tiny.tokenizers import T5_LENGTH
from tests.engine.tiny.transformer import encode, flow_loss, pack_mask
from tests.engine.tiny.world import draw_seen_scene

BATCH = 64
POOL = 4096
_REFRESH = {"text2img": 16, "kontext": 12, "fill": 12, "control": 8}
SHORT = {"text2img": 24, "kontext": 16, "fill": 24, "control": 24}
USUAL = 64  # T5 tokens, as the pipelines are called; training with SHORT ones is 3× as fast
PICTURE_TOKENS = 64
"""The number of tokens that the redux prior adds for a picture."""


@dataclass
class Frozen:
    """The trained components that all kinds share, frozen."""

    vae: AutoencoderKL
    t5: T5EncoderModel
    clip: CLIPTextModel
    reader: Reader

    def to(self, device: torch.device) -> "Frozen":
        """Move the components to a device and freeze them, in place."""
        for part in (self.vae, self.t5, self.clip):
            part.to(device).requires_grad_(False).eval()
        self.vae.to(memory_format=torch.channels_last)
        return self

    @torch.no_grad()
    def read(self, sentences: list[list[str]], length: int) -> tuple[Tensor, Tensor]:
        """The encoders' float32 outputs: T5's (n, length, 128) and CLIP's (n, 128)."""
        device = self.t5.device
        with quick(device):
            tokens = self.t5(input_ids=self.reader.t5_batch(sentences, length).to(device))
            pooled = self.clip(input_ids=self.reader.clip_batch(sentences).to(device))
        return tokens.last_hidden_state.float(), pooled.pooler_output.float()


class Pool:
    """Encoded examples; every draw replaces a few of the oldest, so that none is used often."""

    def __init__(self, kind: str, frozen: Frozen, seed: int, size: int = POOL) -> None:
        self._kind, self._frozen, self._seed = kind, frozen, seed
        self._batches = 0
        self._oldest = 0
        parts = [self._make(BATCH) for _ in range(size // BATCH)]
        self._asks = [ask for _, asks in parts for ask in asks]
        self._tensors = {key: torch.cat([part[key] for part, _ in parts]) for key in parts[0][0]}

    def _make(self, many: int) -> tuple[dict[str, Tensor], list[Ask]]:
        rng = random.Random(f"{self._kind} {self._seed} pool {self._batches}")
        self._batches += 1
        examples = DRAW[self._kind](rng, many)
        return self._encode(examples), examples.asks

    def _encode(self, examples: Examples) -> dict[str, Tensor]:
        """The arguments of `flow_loss` by name, without the prompt."""
        vae = self._frozen.vae
        device = vae.device
        tensors = {"target": encode(vae, examples.targets.to(device))}
        if self._kind == "kontext":
            assert examples.hints is not None
            tensors["after"] = encode(vae, examples.hints.to(device))
        elif examples.hints is not None:
            tensors["beside"] = encode(vae, examples.hints.to(device), sample=True)
        if examples.masks is not None:
            mask = pack_mask(examples.masks.to(device))
            tensors["beside"] = torch.cat([tensors["beside"], mask], -1)
        if examples.weights is not None:
            tensors["weight"] = examples.weights.to(device)
        return tensors

    def draw(self, rng: random.Random, many: int) -> tuple[dict[str, Tensor], list[Sentence]]:
        """Random examples, with newly drawn sentences."""
        fresh, asks = self._make(_REFRESH[self._kind])
        size = len(self._asks)
        places = [(self._oldest + n) % size for n in range(len(asks))]
        self._oldest = (self._oldest + len(asks)) % size
        for key, values in fresh.items():
            self._tensors[key][places] = values
        for place, ask in zip(places, asks, strict=True):
            self._asks[place] = ask
        chosen = rng.sample(range(size), many)
        sentences = [self._asks[n](rng) for n in chosen]
        return {key: values[chosen] for key, values in self._tensors.items()}, sentences


def _drop_some(
    rng: random.Random, sentences: list[Sentence], everything: float
) -> tuple[list[list[str]], list[list[str]]]:
    """T5's and CLIP's words for each sentence: sometimes neither gets any, sometimes only T5."""
    t5_words, clip_words = [], []
    for sentence in sentences:
        chance = rng.random()
        t5_words.append(sentence.words if chance > everything else [])
        clip_words.append(sentence.words if chance > everything + 0.08 else [])
    return t5_words, clip_words


def _redux_batch(frozen: Frozen, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """A target, a prompt and a pooled prompt as redux makes them, for `flow_loss`.

    The prompt is an empty one followed by the tokens of a picture. Some are mixed from two
    pictures; the one with more weight is then the target.
    """
    many = BATCH // 8
    device = frozen.vae.device
    scenes = [draw_seen_scene(rng) for _ in range(many)]
    others = [draw_seen_scene(rng) for _ in range(many)]
    target = encode(frozen.vae, render(arrange(scenes, offsets(rng, scenes))).to(device))
    tokens, _ = frozen.read([describe_plainly(scene).words for scene in scenes], PICTURE_TOKENS)
    other, _ = frozen.read([describe_plainly(scene).words for scene in others], PICTURE_TOKENS)
    share = [rng.uniform(0.6, 1.0) if rng.random() < 0.3 else 1.0 for _ in range(many)]
    mixed = torch.tensor(share, device=device)[:, None, None]
    empty, pooled = frozen.read([[]], T5_LENGTH)
    prompt = torch.cat([empty.expand(many, -1, -1), other.lerp(tokens, mixed)], 1)
    return target, prompt, pooled.expand(many, -1)


def train_transformer(
    kind: str,
    model: FluxTransformer2DModel,
    frozen: Frozen,
    checkpoint: Path,
    steps: int,
    seed: int,
    lr: float,
) -> FluxTransformer2DModel:
    """Train a kind's transformer in place, from a checkpoint if there is one.

    `lr` is the learning rate before the schedule scales it.
    """
    torch.manual_seed(seed)
    device = frozen.vae.device
    model.to(device)
    optimizers = Optimizers(model, lr, plain=lambda name: "transformer_blocks" not in name)
    progress = Progress(kind, checkpoint, steps, model, optimizers)
    if progress.over:
        return model
    pool = Pool(kind, frozen, seed)
    for step, done in progress.steps():
        rng = random.Random(f"{kind} {seed} {step}")
        if kind == "text2img" and rng.random() < 0.06:
            loss = flow_loss(model, *_redux_batch(frozen, rng))
        else:
            short = rng.random() < (0.75 if done < 0.7 else 0.5)
            length = SHORT[kind] if short else USUAL
            tensors, sentences = pool.draw(rng, BATCH if short else BATCH // 2)
            # Only these two support true guidance, which also predicts without the prompt.
            everything = 0.05 if kind in ("text2img", "kontext") else 0.0
            t5_words, clip_words = _drop_some(rng, sentences, everything)
            prompt, _ = frozen.read(t5_words, length)
            _, pooled = frozen.read(clip_words, 1)
            loss = flow_loss(model, tensors.pop("target"), prompt, pooled, **tensors)
        optimizers.step(loss, min(1, (step + 1) / 60) * schedule(done))
        progress.note(step, loss=loss.detach())
    return model

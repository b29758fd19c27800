"""The models that ship, as data: a new model of a known family is a few lines here.

Licences, gating, step counts and guidance are those of the model cards. Parameter counts are
computed from the published shapes of the tensors; `bytes` is the size of the download. Imports
neither torch nor diffusers nor Pillow.
"""

from collections.abc import Mapping
from dataclasses import replace

from runner.engine.models import (
    Aid,
    ControlNet,
    Estimator,
    Model,
    Prior,
    Serving,
    Sizes,
    Upscaler,
    Weights,
)
from runner.engine.tiny.folders import UPSCALER, WEIGHTS

APACHE = "Apache-2.0"
ONE_MEGAPIXEL = 1_048_576

_FLUX1_VAE = 83_819_683
_QWEN3_4B = 4_022_468_096
_QWEN3_LAYER = 100_930_816
"""Of 36."""
_QWEN3_8B, _QWEN3_8B_LAYER = 8_190_735_360, 192_946_432

_TEXT2IMG = Serving("FluxPipeline", 28, 3.5, negative="true_cfg", img2img="FluxImg2ImgPipeline")

_REDUX = Prior(
    "FluxPriorReduxPipeline",
    "black-forest-labs/FLUX.1-Redux-dev",
    bytes=2 * (428_225_600 + 64_503_808),
)

DEPTH_ANYTHING = Estimator(
    "depth-anything", "depth-anything/Depth-Anything-V2-Small-hf", APACHE, bytes=99_173_660
)


def _flux1(name: str, repo: str, transformer: int, **serves: Serving) -> Model:
    """A FLUX.1 repository: bfloat16 weights, so two bytes for each parameter."""
    prior = sum(serving.prior.bytes // 2 for serving in serves.values() if serving.prior)
    weights = Weights(
        transformer, 4_762_310_656 + 123_060_480, _FLUX1_VAE, prior,
        outside=transformer - 11_834_228_736, widest=(5 * 3072, 6 * 3072),
    )  # fmt: skip
    return Model(
        name=name,
        repo=f"black-forest-labs/{repo}",
        licence="FLUX.1-dev-Non-Commercial",
        gated=True,  # schnell too: its licence is free, its repository asks for an account
        serves=serves,
        weights=weights,
        width=3072,
        bytes=2 * weights.total,
    )


_TINY = Model(
    name="tiny",
    repo="",
    licence=APACHE,
    builtin=True,
    sizes=Sizes(default=(64, 64), only=((64, 64),)),
    max_sequence_length=64,
    weights=Weights(2_415_424, 875_776, 845_715, 661_888),
    bytes=25_000_000,
    native="fp32",
    precisions=("auto", "fp32", "bf16"),
    serves={
        "text2img": replace(_TEXT2IMG, steps=8, part="text2img"),
        "kontext": Serving("FluxKontextPipeline", 8, 2.5, part="kontext", negative="true_cfg"),
        "fill": Serving("FluxFillPipeline", 8, 30.0, part="fill"),
        "control": Serving("FluxControlPipeline", 8, 10.0, part="control", controls=("canny",)),
        "redux": Serving(
            "FluxPipeline",
            4,  # as accurate as 8, in half the time
            2.5,
            part="text2img",
            prior=Prior("FluxPriorReduxPipeline", "", part="redux-prior"),
            references=4,
            weighted=True,
        ),
    },
)


def _qwen3(transformer: int, vae: int, layers: int, outside: int, read: int, made: int) -> Weights:
    """The weights of a model that reads so many layers of Qwen3-4B."""
    unread = (36 - layers) * _QWEN3_LAYER
    return Weights(
        transformer, _QWEN3_4B - unread, vae, unread=unread, outside=outside, widest=(read, made)
    )


_KLEIN_LAYERS, _ZIMAGE_LAYERS = 27, 35
"""klein reads the states after layers 9, 18 and 27, Z-Image those before the last."""
_KLEIN_WEIGHTS = _qwen3(3_875_544_576, 84_046_115, _KLEIN_LAYERS, 195_042_816, 4 * 3072, 9 * 3072)
_KLEIN_SERVING = Serving("Flux2KleinPipeline", 4, 1.0, guided=False)
_KLEIN = Model(
    name="klein",
    repo="black-forest-labs/FLUX.2-klein-4B",
    licence=APACHE,
    family="flux2",
    # The pipeline shrinks input images to a megapixel, so a size that follows one ends there too.
    sizes=Sizes(follow=ONE_MEGAPIXEL, shortest=64, longest=8),
    text_layers=_KLEIN_LAYERS,
    weights=_KLEIN_WEIGHTS,
    width=3072,
    bytes=2 * _KLEIN_WEIGHTS.total,
    serves={
        "text2img": _KLEIN_SERVING,
        "kontext": replace(_KLEIN_SERVING, references=4),
        "redux": replace(
            _KLEIN_SERVING,
            references=4,
            words="a new picture with the subjects and in the style of the reference",
        ),
        "fill": replace(
            _KLEIN_SERVING,
            pipeline="Flux2KleinInpaintPipeline",
            # The inpaint pipeline shrinks anything larger, whatever size it is called with.
            sizes=Sizes(pixels=ONE_MEGAPIXEL, follow=ONE_MEGAPIXEL),
        ),
    },
)


def _undistilled(serves: Mapping[str, Serving]) -> Mapping[str, Serving]:
    """These of a base model, which makes more steps and is guided away from a negative prompt."""
    return {
        kind: replace(each, steps=50, guidance=4.0, guided=True, negative="guidance")
        for kind, each in serves.items()
    }


def _klein(name: str, repo: str, *, guided: bool = False, free: bool = False) -> Model:
    """Another FLUX.2 klein: of 9 B parameters where it is not free, undistilled where guided."""
    unread = (36 - _KLEIN_LAYERS) * _QWEN3_8B_LAYER
    large = Weights(
        9_078_581_248, _QWEN3_8B - unread, _KLEIN_WEIGHTS.vae, unread=unread,
        outside=354_428_928, widest=(4 * 4096, 9 * 4096),
    )  # fmt: skip
    weights = _KLEIN_WEIGHTS if free else large
    return replace(
        _KLEIN,
        name=name,
        repo=f"black-forest-labs/{repo}",
        licence=APACHE if free else "FLUX-Non-Commercial-v2.1",
        gated=not free,
        weights=weights,
        width=3072 if free else 4096,
        bytes=2 * weights.total,
        serves=_undistilled(_KLEIN.serves) if guided else _KLEIN.serves,
    )


_KLEIN_9B = _klein("klein-9b", "FLUX.2-klein-9B")
_KLEIN_KV = replace(
    _KLEIN_9B,
    name="klein-9b-kv",
    repo="black-forest-labs/FLUX.2-klein-9b-kv",
    # Key and value of each token of the references, in 32 blocks.
    weights=replace(_KLEIN_9B.weights, kept=2 * 32 * 4096 * 2),
    serves={
        kind: replace(serving, pipeline="Flux2KleinKVPipeline", guidance=0.0, caches=True)
        for kind, serving in _KLEIN_9B.serves.items()
        if kind != "fill"  # its pipeline has no such cache, and this model is trained for one
    },
)

_ZIMAGE_WEIGHTS = _qwen3(6_154_908_736, _FLUX1_VAE, _ZIMAGE_LAYERS, 12_874_816, 10_240, 10_240)
_ZIMAGE = Model(
    name="z-image-turbo",
    repo="Tongyi-MAI/Z-Image-Turbo",
    licence=APACHE,
    family="zimage",
    text_layers=_ZIMAGE_LAYERS,
    weights=_ZIMAGE_WEIGHTS,
    width=3840,
    # The transformer is published in float32.
    bytes=2 * _ZIMAGE_WEIGHTS.total + 2 * _ZIMAGE_WEIGHTS.transformer,
    serves={
        "text2img": Serving(
            "ZImagePipeline", 8, 0.0, guided=False, img2img="ZImageImg2ImgPipeline"
        ),
        "fill": Serving("ZImageInpaintPipeline", 8, 0.0, guided=False),
    },
)

# With the ControlNet of `_ZIMAGE_CONTROL`: canny, depth and more in one, distilled for 8 steps.
_UNION_PARAMETERS = 3_356_225_792
_UNION = ControlNet(
    "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union-2.1",
    "Z-Image-Turbo-Fun-Controlnet-Union-2.1-2602-8steps.safetensors",
    config="z-image-union",
    licence=APACHE,
    scale=0.75,  # the pipeline's own; its makers' range is 0.65 to 1
    bytes=2 * _UNION_PARAMETERS,
)
_ZIMAGE_CONTROL = replace(
    _ZIMAGE,  # an entry of its own, because it is another download
    name="z-image-control",
    weights=replace(
        _ZIMAGE_WEIGHTS,
        controlnet=_UNION_PARAMETERS,
        # The states after each of 15 blocks and the last one, and all but that times the scale.
        kept=31 * 3840 * 2,
    ),
    serves={
        "control": Serving(
            "ZImageControlNetPipeline",
            8,
            0.0,
            guided=False,
            controls=("canny", "depth"),
            estimator=DEPTH_ANYTHING,
            controlnet=_UNION,
        )
    },
)

_FLUX3_WEIGHTS = replace(
    _qwen3(5_548_681_984, 84_046_115, 32, 273_296_128, 3 * 3072, 6 * 3072),
    unread=415_347_712 + 4 * _QWEN3_LAYER,
)
"""Of Qwen3-VL-4B the first 32 of 36 layers are read, and what sees is not."""
_FLUX3 = Model(
    name="flux3-klein",
    repo="black-forest-labs/flux-3-image-klein",
    licence="FLUX-Kommunity-1.0",
    conditions=(
        "for non-commercial use, and for those who earn less than 5 million US dollars a year the"
        " pictures also commercially, if content is filtered and AI is disclosed as the licence"
        " says: read it before you accept it"
    ),
    family="flux3",
    gated=True,
    # Of a longer reference a megapixel would have a side of more than 4096 pixels.
    sizes=Sizes(follow=ONE_MEGAPIXEL, longest=16),
    max_sequence_length=1040,
    fewest_words=60,
    text_layers=32,
    weights=_FLUX3_WEIGHTS,
    width=3072,
    bytes=2 * _FLUX3_WEIGHTS.total,
    serves={
        kind: replace(_KLEIN.serves[kind], pipeline="Flux3KleinPipeline", steps=16, references=most)
        for kind, most in {"text2img": 1, "kontext": 10, "redux": 10}.items()
    },
)

_FLUX3_BASE_WEIGHTS = replace(_FLUX3_WEIGHTS, transformer=5_538_458_368, outside=263_072_512)
_FLUX3_BASE = replace(
    _FLUX3,
    name="flux3-klein-base",
    repo="black-forest-labs/flux-3-image-klein-base",
    weights=_FLUX3_BASE_WEIGHTS,
    bytes=2 * _FLUX3_BASE_WEIGHTS.total,
    serves=_undistilled(_FLUX3.serves),
)

_ENTRIES = (
    _TINY,
    _KLEIN,
    _ZIMAGE,
    _ZIMAGE_CONTROL,
    _klein("klein-base", "FLUX.2-klein-base-4B", guided=True, free=True),
    _KLEIN_9B,
    _klein("klein-base-9b", "FLUX.2-klein-base-9B", guided=True),
    _KLEIN_KV,
    replace(
        _flux1(
            "schnell",
            "FLUX.1-schnell",
            11_891_178_560,
            text2img=replace(_TEXT2IMG, steps=4, guidance=0.0, guided=False, negative=""),
        ),
        licence=APACHE,
        max_sequence_length=256,
    ),
    _flux1(
        "dev",
        "FLUX.1-dev",
        11_901_408_320,
        text2img=_TEXT2IMG,
        redux=Serving("FluxPipeline", 50, 2.5, prior=_REDUX, references=8, weighted=True),
    ),
    _flux1("krea", "FLUX.1-Krea-dev", 11_901_408_320, text2img=replace(_TEXT2IMG, guidance=4.5)),
    replace(
        _flux1(
            "kontext-dev",
            "FLUX.1-Kontext-dev",
            11_901_408_320,
            kontext=Serving("FluxKontextPipeline", 28, 2.5, references=4, negative="true_cfg"),
        ),
        # The area it was trained at; the longest of its sizes is 2.3 times as long as wide.
        sizes=Sizes(follow=ONE_MEGAPIXEL, longest=4),
    ),
    _flux1(
        "fill-dev", "FLUX.1-Fill-dev", 11_902_391_360, fill=Serving("FluxFillPipeline", 50, 30.0)
    ),
    _flux1(
        "canny",
        "FLUX.1-Canny-dev",
        11_901_604_928,
        control=Serving("FluxControlPipeline", 50, 30.0, controls=("canny",)),
    ),
    _flux1(
        "depth",
        "FLUX.1-Depth-dev",
        11_901_604_928,
        control=Serving(
            "FluxControlPipeline", 30, 10.0, controls=("depth",), estimator=DEPTH_ANYTHING
        ),
    ),
    _FLUX3,
    _FLUX3_BASE,
)

MODEL_REGISTRY: Mapping[str, Model] = {model.name: model for model in _ENTRIES}

TINY_UPSCALER = Upscaler("tiny-upscaler", str(WEIGHTS), UPSCALER, APACHE, 2, 60_000)
"""Built in, for the pictures of the built-in model."""

DEFAULT_UPSCALER = Upscaler(
    "realesr-general",
    "leonelhs/realesrgan",
    "realesr-general-x4v3.pth",
    "BSD-3-Clause",
    scale=4,
    bytes=4_885_111,
    sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
)
_ANIME = replace(
    DEFAULT_UPSCALER,
    name="realesr-anime",
    file="realesr-animevideov3.pth",
    bytes=2_504_012,
    sha256="",
)
UPSCALERS: Mapping[str, Upscaler] = {
    upscaler.name: upscaler for upscaler in (DEFAULT_UPSCALER, _ANIME, TINY_UPSCALER)
}
"""Those that the setting `upscaler` may name."""

AIDS: Mapping[str, Aid] = {DEPTH_ANYTHING.name: DEPTH_ANYTHING, **UPSCALERS}
"""All that is pulled by name and is no model."""

DEFAULTS: Mapping[str, str] = {
    kind: next((model.name for model in _ENTRIES[1:] if kind in model.serves), _TINY.name)
    for kind in _TINY.serves
}
"""The model of each kind where neither the spec nor the settings name one.

The first entry after tiny that serves it. That is klein wherever it can be, else a Z-Image: their
licences are free, their repositories ask for no account, and they fit on a card of 16 GB.
"""

IMG2IMG_DEFAULT = _ZIMAGE.name
"""The default model of text2img with an image: the first after tiny that can start from one."""

CONTROL_DEFAULTS: Mapping[str, str] = {"canny": "canny", "depth": "depth"}
"""For each value of `control` the model that is the default where it is on this machine."""

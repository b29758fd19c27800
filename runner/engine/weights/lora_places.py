"""The layers of a module by every name that a LoRA file may have for them.

Files name layers as diffusers does or as the model's first code did, with dots or underscores. The
names are made for a module at hand, so that no table has the number or the size of its blocks.
diffusers' converters are not used: they have both for some models, and drop what they do not know.
"""

from collections.abc import Mapping

from runner.lora_names import plain

_QKV = "attn.to_q+attn.to_k+attn.to_v"
_REFINED = """
    attention.to_q+attention.to_k+attention.to_v=attention.qkv  attention.to_out.0=attention.out
    attention.norm_q=attention.q_norm  attention.norm_k=attention.k_norm
"""
_ONE_MODE = """
    attn.to_q=q_proj  attn.to_k=k_proj  attn.to_v=v_proj  attn.to_out.0=attn_out
    ff.linear_in=mlp_in  ff.linear_out=mlp_out  attn.norm_q=norm.query_norm
    attn.norm_k=norm.key_norm
"""
_FIRST_NAMES = {
    "transformer_blocks.=double_blocks.": f"""
    {_QKV}=img_attn.qkv=processor.qkv_lora1
    attn.add_q_proj+attn.add_k_proj+attn.add_v_proj=txt_attn.qkv=processor.qkv_lora2
    attn.to_out.0=img_attn.proj=processor.proj_lora1  attn.to_add_out=txt_attn.proj
    attn.to_add_out=processor.proj_lora2  norm1.linear=img_mod.lin  norm1_context.linear=txt_mod.lin
    ff.net.0.proj=img_mlp.0  ff.net.2=img_mlp.2  ff.linear_in=img_mlp.0  ff.linear_out=img_mlp.2
    ff_context.net.0.proj=txt_mlp.0  ff_context.net.2=txt_mlp.2
    ff_context.linear_in=txt_mlp.0  ff_context.linear_out=txt_mlp.2
    attn.norm_q=img_attn.norm.query_norm  attn.norm_added_q=txt_attn.norm.query_norm
    attn.norm_k=img_attn.norm.key_norm  attn.norm_added_k=txt_attn.norm.key_norm
    """,
    "single_transformer_blocks.=single_blocks.": f"""
    {_QKV}+proj_mlp=linear1  attn.to_qkv_mlp_proj=linear1  {_QKV}=processor.qkv_lora
    proj_out=linear2=processor.proj_lora  attn.to_out=linear2  norm.linear=modulation.lin
    {_ONE_MODE}
    """,
    "mode_blocks.image.=content_mode_blocks.image.": _ONE_MODE,
    "mode_blocks.image_cond.=content_mode_blocks.image_cond.": _ONE_MODE,
    "txt_mode_blocks.=txt_mode_blocks.": _ONE_MODE,
    "layers.=layers.": _REFINED,
    "noise_refiner.=noise_refiner.": _REFINED,
    "context_refiner.=context_refiner.": _REFINED,
    "=": """
    x_embedder=img_in  context_embedder=txt_in  proj_out=final_layer.linear
    norm_out.linear=~final_layer.adaLN_modulation.1
    time_text_embed.timestep_embedder=time_in  time_guidance_embed.timestep_embedder=time_in
    time_text_embed.guidance_embedder=guidance_in  time_text_embed.text_embedder=vector_in
    time_guidance_embed.guidance_embedder=guidance_in
    double_stream_modulation_img  double_stream_modulation_txt  single_stream_modulation
    early_stream_modulations.image  single_stream_modulations.image
    early_stream_modulations.image_cond  single_stream_modulations.image_cond
    early_stream_modulations.txt  single_stream_modulations.txt
    x_embedders.image=emb_in.image  x_embedders.image_cond=emb_in.image_cond
    timestep_embedder=time_in  target_timestep_embedder=ref_time_in
    proj_out=final_layer.image.linear  norm_out.linear=~final_layer.image.adaLN_modulation.1
    all_x_embedder.2-1=x_embedder  all_final_layer.2-1.linear=final_layer.linear
    all_final_layer.2-1.adaLN_modulation.1=final_layer.adaLN_modulation.1
    """,
}
"""For a list of blocks the names in each: diffusers' one, and after `=` the first code's others.

`+` joins layers that lie in the output of the first one after the other; of `~` the halves of the
output changed place. `processor` is XLabs'.
"""


_ENDS = (("", ""), (".linear_1", ".in_layer"), (".linear_2", ".out_layer"), (".linear", ".lin"))


Place = tuple[tuple[str, ...], bool]
"""The layers that a name stands for, and whether the halves of the output changed place."""


def places(layers: Mapping[str, object]) -> dict[str, Place]:
    """The layers of a module by every name that a file may have for them."""
    table: dict[str, Place] = {}

    def add(alias: str, *names: str) -> None:
        if all(name in layers for name in names):
            table.setdefault(plain(alias.removeprefix("~")), (names, alias.startswith("~")))

    for name in layers:
        add(name, name)
    for name in layers:
        for inner in ("text_model.", "model."):  # with and without, by the version of transformers
            add(name.removeprefix(inner), name)
            add(inner + name, name)
    for heads, rows in _FIRST_NAMES.items():
        own, first = heads.split("=")
        blocks = {name.removeprefix(own).split(".")[0] for name in layers if name.startswith(own)}
        for number in [f"{block}." for block in blocks] if own else [""]:
            for owns, *firsts in (row.split("=") for row in rows.split()):
                for end, other in _ENDS:
                    names = [f"{own}{number}{each}{end}" for each in owns.split("+")]
                    for each in firsts or [owns]:
                        add(f"{first}{number}{each}{other}", *names)
    return table

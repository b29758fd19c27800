"""What somebody careful writes by hand to get pictures out of diffusers, without any runner.

`python careful_script.py FOLDER LIST OUT`: FOLDER is the pipeline's, LIST a JSON file of
[prompt, seed] pairs. One thread for so small a model, no bars, every prompt encoded once. Imports
nothing of this project: the benchmarks run it as the other side of their comparisons.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import FluxPipeline

folder, pairs, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8")), sys.argv[3]
torch.set_num_threads(1)
pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
pipe.set_progress_bar_config(disable=True)
words = {}
for number, (prompt, seed) in enumerate(pairs):
    if prompt not in words:
        with torch.no_grad():
            embeds, pooled, _ = pipe.encode_prompt(prompt, None, max_sequence_length=64)
        words[prompt] = {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
    generator = torch.Generator("cpu").manual_seed(seed)
    image = pipe(
        **words[prompt], num_inference_steps=8, guidance_scale=3.5, width=64, height=64,
        generator=generator,
    ).images[0]  # fmt: skip
    image.save(Path(out) / f"{number:04}.png")

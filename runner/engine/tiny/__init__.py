"""The built-in model: a small FLUX that draws simple scenes at 64×64 and obeys its prompts.

What it knows is decided in `vocabulary`, `world`, `captions` and `edits`; what it is made of
in `encoders`, `vae`, `transformer` and `redux`; how well it does in `classifier` and `evaluate`.
The program needs only `folders` and `vocabulary`; neither may import torch, numpy, diffusers or
transformers, nor may this file.
"""

"""The built-in model: a small FLUX that draws simple scenes of 64×64 pixels from a prompt.

    folders      makes the folders that `from_pretrained` loads from weights/
    vocabulary   the words that it knows

tests/engine/tiny made the weights, and makes them again. Nothing here may import torch, numpy,
diffusers or transformers.
"""

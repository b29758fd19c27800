"""The built-in model: a small FLUX that draws simple scenes of 64×64 pixels from a prompt.

    vocabulary world captions edits           the words and scenes of its training
    encoders vae transformer redux            its components and their training
    folders                                   makes the folders that `from_pretrained` loads

The program uses only `folders` and `vocabulary`. Neither they nor this file may import torch,
numpy, diffusers or transformers.
"""

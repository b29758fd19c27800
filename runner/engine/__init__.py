"""The engine: all code that knows diffusers, torch and the models; ARCHITECTURE.md has its map.

No file imports torch, diffusers, transformers or numpy at its top, which would cost seconds of
every start.
"""

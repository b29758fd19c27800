"""The composer: packs of prompt blocks, an audit that understands "no", and plans of bulk work.

    packs ──► assemble ──► audit ──► plan

It works on text alone: it must never import torch, and never writes a file.
"""

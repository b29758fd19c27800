"""The composer builds prompts from packs of text blocks, audits them, and plans bulk work.

    packs ──► assemble ──► audit ──► plan

The audit finds forbidden terms and understands negations. The package works on text alone: it must
never import torch, and never writes a file.
"""

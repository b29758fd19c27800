"""Reads, checks, expands and writes specs: the YAML and JSON files that people drop.

The package imports nothing of the runner and no torch, and importing it loads neither yaml nor
jsonschema. What a spec may contain is defined by the `*.schema.json` files in this folder.
"""

"""Specs: read, check, expand and write the YAML and JSON that people drop, and their schemas.

Ground floor: nothing here knows torch, the spool or the command line, and importing this package
imports neither yaml nor jsonschema. What a spec may say is in the `*.schema.json` files.
"""

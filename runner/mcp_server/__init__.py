"""The MCP server: tools that write specs, read statuses, and search the gallery.

It writes only into the inbox (with `--autostart`, a runner's log too) and reads the outbox, the
packs, the gallery and input images. Nothing here imports torch, numpy or diffusers, and the
gallery is not read before the first search.
"""

"""Finished pictures: the metadata in their files, the index that finds them, the outbox's pages.

Nothing here imports the spool or the engine. `search`, `store` and `rebuild` do not import Pillow.
Files whose loss would matter are written by a function that the caller passes in.
"""

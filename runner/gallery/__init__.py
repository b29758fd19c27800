"""Finished pictures: the metadata in their files, the index that finds them, the outbox's pages.

    metadata      encodes pictures with their settings inside, and reads them   infotext xmp foreign
    page.thumbs   a small WebP file for each picture
    page.sheet    the static pages of the outbox                         layout summary overview
    store         the index, as a TinyDB table                           segments index line_format
    search        queries on the index                                   terms
    rebuild       makes rows and the index from the sidecars
    timing        estimates rendering times from the index

Nothing here imports the spool or the engine. `search`, `store` and `rebuild` do not import Pillow.
Files whose loss would matter are written by a function that the caller passes in.
"""

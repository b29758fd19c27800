"""The gallery wing: what a finished picture carries, how it is found again, how it is looked at.

    metadata   the picture's bytes with its settings in them, and back   infotext xmp foreign
    thumbs     the small WebP beside each picture
    sheet      the static pages of the outbox                            shape summary overview page
    store      the index as a TinyDB table                               segments index lines lock
    search     the questions one can ask it                              terms
    rebuild    the index made again from the sidecars, the truth         rows

Nothing here knows the spool or the engine. `search`, `store` and `rebuild` start without Pillow.
Files whose loss would matter are written by a function that the caller hands in.
"""

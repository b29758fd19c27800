"""The gallery wing: what a finished picture carries, how it is found again, how it is looked at.

    metadata   the picture's bytes with its settings in them, and back      (infotext, xmp, foreign)
    thumbs     the small WebP beside each picture
    sheet      the static pages of the outbox                               (shape, page/)
    store      the index on TinyDB                                          (segments, terms, rows)
    search     the questions one can ask it
    rebuild    the index made again from the sidecars, which are the truth

Nothing here knows the spool or the engine. `search` and `store` start without Pillow.
"""

"""Word lists for phrases after a mention that negate it: "none", "removed", "not visible".

`composer.audit.after` applies them.
"""

from __future__ import annotations

ANSWERS = frozenset(
    "none no absent off zero 0 nil never n/a false excluded removed forbidden omitted disallowed "
    "prohibited banned nope nowhere without disabled hidden".split()
)
GONE = frozenset(
    "removed omitted excluded absent erased deleted banned forbidden prohibited disallowed "
    "eliminated unwanted avoided nowhere stripped scrubbed disabled unwelcome".split()
)
EMPHASIS = frozenset("at thanks whatsoever please".split())
LOST = frozenset("missing lost absent omitted removed forgotten excluded".split())
GONE_AT_END = frozenset("missing gone hidden none out".split())
HARMED = frozenset(
    "hidden cropped covered obscured cut lost blurred forgotten dropped missed concealed".split()
)
GONE_PAIRS = frozenset(
    f"{verb} {particle}"
    for verb in "left edited cropped cut taken painted photoshopped ruled filtered blanked".split()
    for particle in ("out", "off", "away")
) | {"replaced by", "replaced with", "swapped for", "traded for", "off limits"}
NOT = frozenset(
    "not never no isn't isnt aren't arent wasn't wasnt weren't werent don't dont doesn't doesnt "
    "won't wont can't cant cannot couldn't couldnt shouldn't shouldnt mustn't mustnt needn't "
    "hasn't haven't didn't".split()
)
AUXILIARY = frozenset(
    "is are was were be been being must should shall may can could will would do does did has "
    "have had to need get kept that which who also all both simply please completely entirely "
    "fully totally deliberately ought".split()
)
PRESENT = frozenset(
    "visible present allowed included shown appear appears appearing exist exists existing show "
    "shows permitted depicted displayed rendered seen added used printed drawn featured found "
    "welcome acceptable wanted needed required desired tolerated pictured part there applied "
    "painted placed written expected here discernible recognizable recognisable exists "
    "noticeable readable legible available".split()
)
VISIBILITY = frozenset("frame shot view picture image sight scene photo composition".split())
KEEP = frozenset("keep keeps keeping leave leaves leaving crop edit edits take cut left".split())
NOT_FREE = frozenset("of to from as for with in on style range form hand fall falling".split())

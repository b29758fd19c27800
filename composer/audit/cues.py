"""A table of cues, which are the words that begin, invert or end a negation, and its search.

The longest cue wins, so that "not only" is found before "not". The core of the lists is that of
NegEx and ConText (Apache-2.0); the rest is the English of image prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache

from composer.audit.tokens import Kind, Token


class Effect(Enum):
    """How a cue changes the meaning of the words after it."""

    NOT = "not"  # negates what follows; repeated, it is emphasis
    WITHOUT = "without"  # negates what follows; under another negation it affirms
    ORDER = "order"  # the same, but only as a command: "remove the text"
    INVERT = "invert"  # has no effect alone; under a negation it affirms
    HANDLE = "handle"  # a verb whose object must exist: "do not cover the label"
    INSTEAD = "instead"  # negates only its own phrase: "instead of text, icons"
    LIST = "list"  # begins a list of unwanted things, with a colon
    STOP = "stop"  # ends a negation
    EXCEPT = "except"  # inverts: "no A except B", "everything except B"
    AFFIRM = "affirm"  # contains a negation but does not negate: "no doubt"
    INCLUDE = "include"  # continues a list: "such as"


@dataclass(frozen=True)
class Cue:
    """One cue: its words and its effect."""

    words: tuple[str, ...]
    effect: Effect


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


_TABLE: dict[Effect, tuple[str, ...]] = {
    Effect.NOT: _phrases(
        "no|not|never|nor|neither|zero|nary|cannot|can not|do not|does not|did not|"
        "should not|must not|may not|not any|not a single|not one|not even|not a hint of|"
        "not a trace of|nobody|no one|noone|no such thing as|nothing like|nothing resembling|"
        "nothing that looks like|nothing suggesting|under no circumstances|in no way|"
        "by no means|at no point|on no account|no longer any|no longer has|no longer have|"
        "no longer contains|no longer shows|no longer includes|no longer features|"
        "no longer carries|no longer bears|don't|dont|doesn't|doesnt|didn't|didnt|isn't|isnt|"
        "aren't|arent|wasn't|wasnt|weren't|werent|won't|wont|wouldn't|wouldnt|can't|cant|"
        "couldn't|couldnt|shouldn't|shouldnt|mustn't|mustnt|hasn't|hasnt|haven't|havent|"
        "hadn't|hadnt|needn't|ain't|aint|mightn't|shan't"
    ),
    Effect.WITHOUT: _phrases(
        "without|without any|without so much as|with no|with zero|sans|minus|excluding|"
        "exclude|excludes|excl|omit|omits|omitting|avoid|avoids|avoiding|devoid of|void of|"
        "free of|free from|clear of|clean of|bare of|barren of|empty of|bereft of|"
        "stripped of|cleared of|cleaned of|emptied of|cleansed of|purged of|freed of|"
        "freed from|shorn of|drained of|absent of|absent any|absence of|lack of|lack|lacks|"
        "lacking|lacked|in the absence of|steer clear of|stay away from|stay clear of|"
        "keep away from|refrain from|abstain from|shy away from|do without|goes without|"
        "go without|eliminate|eliminating|devoid|do away with|dispense with|get rid of|"
        "rid of|opt out of|exclusive of|to the exclusion of"
    ),
    Effect.ORDER: _phrases(
        "remove|removing|erase|erasing|delete|deleting|hide|skip|skipping|drop|ditch|forbid|"
        "ban|prohibit|disallow|replace|replacing|strip|strip out|strip away|leave out|"
        "leaving out|crop out|cropping out|edit out|editing out|cut out|take out|take away|"
        "paint out|photoshop out|leave off|leaving off|keep out|blot out|swap|swapping|"
        "swap out|exchange|scrub|lose the|prevent|suppress|nix|axe"
    ),
    Effect.INVERT: _phrases(
        "forget|forgets|forgetting|fail to|fails to|failing to|failing|hesitate to|neglect|"
        "neglecting|missing|hiding|hides|removes|shortage of|short of|dearth of|scarcity of|"
        "end of|end to|limit to|miss|dropping|losing|lose|ignore|ignoring|overlook|"
        "overlooking|denying|mistaking|escaping|avoiding the|shy on|deprive|scrimp on|"
        "skimp on|stinting on|cutting off|cut off|cutting out|cropping off|crop off|"
        "exclusion of|omission of|removal of"
    ),
    Effect.HANDLE: tuple(
        "cover covering crop cropping obscure obscuring obstruct obstructing block blocking "
        "conceal concealing mask masking blur blurring smudge smudging distort distorting "
        "warp warping stretch stretching recolor recoloring recolour recolouring alter "
        "altering modify modifying change changing edit editing move moving resize resizing "
        "touch touching cut cutting trim trimming tilt tilting rotate rotating flip flipping "
        "mirror mirroring overlap overlapping bury burying darken darkening dim dimming fade "
        "fading deform deforming reword rewording redraw redrawing restyle restyling shrink "
        "shrinking squash squashing disturb disturbing damage damaging spoil spoiling ruin "
        "ruining simplify simplifying mangle mangling overpower overpowering outshine "
        "outshining dwarf dwarfing truncate truncating clip clipping shift shifting duplicate "
        "duplicating scratch scratching bend bending break breaking crowd crowding overexpose "
        "overexposing misspell misspelling mistreat desaturate desaturating tamper tampering "
        "dominate dominating".split()
    ),
    Effect.INSTEAD: _phrases("instead of|rather than|in place of|in lieu of|as opposed to"),
    Effect.LIST: _phrases(
        "negative prompt|negative prompts|negative|negatives|neg|exclusions|exclusion|forbidden|"
        "banned|prohibited|removed|excluded|omitted|not included|not allowed|unwanted|must avoid|"
        "don'ts|donts|disallowed"
    ),
    Effect.STOP: _phrases(
        "but|however|although|though|yet|nevertheless|nonetheless|only|just|instead|rather|"
        "while|whereas|whilst|because|since|with|featuring|so|when|where|if|unless|until|"
        "then|as|otherwise|together with|along with|simply|merely|showing only|therefore|"
        "thus|hence|except that|leaving|letting|revealing only|focusing on|focus on"
    ),
    Effect.EXCEPT: _phrases(
        "except|except for|excepting|apart from|aside from|other than|save for|besides|but for|"
        "barring"
    ),
    Effect.AFFIRM: _phrases(
        "not only|not just|not merely|not simply|not solely|not exclusively|not necessarily|"
        "not to mention|not least|not unlike|not far from|not quite|not exactly|not fully|"
        "not completely|not entirely|not totally|not always|not all|not every|not everyone|"
        "not each|not too|not so|not overly|not very|not as|not enough|not many|not much|"
        "not a lot of|not lots of|not a few|not so much|not less than|not more than|"
        "not fewer than|not yet|don't just|do not just|don't only|do not only|doesn't just|"
        "no doubt|no matter|no longer|no fewer than|no less than|no more than|no fewer|"
        "no less|no wonder|no question|no mistake|no mistaking|no denying|no escaping|"
        "no ignoring|no hiding|no avoiding|no missing|no problem|no worries|no surprise|"
        "no secret|no stranger|no sooner|no end|no end of|no limit to|no two|no ordinary|"
        "no mere|no average|no typical|no simple|no common|no way around|no joke|"
        "no exception|no holds barred|no strings attached|no nonsense|no frills|no fuss|"
        "no brainer|no particular order|in no time|yes or no|like no other|second to none|"
        "none other than|none other|none but|none of|nothing but|nothing except|"
        "nothing except for|nothing other than|nothing more than|nothing less than|"
        "nothing short of|nothing without|incomplete without|not complete without|"
        "nothing if not|never mind|never ending|never fails to|why not|if not|whether or not|"
        "or not|believe it or not|cannot help but|can't help but|can not help but|can't help|"
        "cannot resist|can't resist|can't miss|can't get enough|without a doubt|"
        "without doubt|without question|without difficulty|without fail|without exception|"
        "without too many|without too much|without many|without much|without a lot of|"
        "without lots of|sans serif|sansserif|zero gravity|zero g|zero waste|zero emission|"
        "zero sugar|ground zero|sub zero|below zero|zero degrees|little to no|few to no|"
        "low to no|little or no|few or no|minimal to no|minimal or no|hardly any|barely any|"
        "scarcely any|hardly a|no man's land|might not|may or may not|not sure|not certain"
    ),
    Effect.INCLUDE: _phrases(
        "such as|including|e.g|i.e|for example|for instance|namely|especially|particularly|"
        "in particular|notably|be it|whether|like"
    ),
}

COMMANDS_WITH_ARTICLE = frozenset(
    _phrases("skip|drop|ditch|strip|axe|scrub|suppress|nix|cut out|take out|take away|lose the")
)
"""Commands that are also nouns or adjectives: "drop the text" is one, "drop shadow" is not."""

ALMOST = frozenset(
    "almost nearly mostly largely practically virtually partially partly relatively fairly hardly "
    "barely scarcely".split()
)
"""Before a negation these mean that some of the thing remains: "almost no text"."""

WRITING = frozenset(
    "says say saying said reads read reading words word phrase text lettering captioned titled "
    "labelled labeled written inscribed spelling spells spelled slogan caption message title "
    "headline sign letters neon stating states tagline quote engraved embossed printed".split()
)
"""Quoted words after one of these are drawn literally, so that a "no" in them negates nothing."""


@cache
def _beginnings() -> dict[tuple[str, ...], Cue | None]:
    """The beginnings of all cues, each with the cue that it is, if it is one."""
    known: dict[tuple[str, ...], Cue | None] = {}
    for effect, phrases in _TABLE.items():
        for phrase in phrases:
            words = tuple(phrase.split())
            for count in range(1, len(words)):
                known.setdefault(words[:count], None)
            known[words] = known.get(words) or Cue(words, effect)
    return known


def cue_at(tokens: Sequence[Token], index: int) -> tuple[Cue, int] | None:
    """The longest cue that begins at a token, and the token after it."""
    known = _beginnings()
    words: tuple[str, ...] = ()
    best: tuple[Cue, int] | None = None
    for at in range(index, len(tokens)):
        if tokens[at].kind is Kind.HYPHEN and words:
            continue
        words = (*words, tokens[at].text)
        if tokens[at].kind is not Kind.WORD or words not in known:
            break
        if cue := known[words]:
            best = (cue, at + 1)
    return best

"""Word lists: articles, adjectives and verbs as opposed to nouns, and words that say "absent".

They contain common English of image prompts, not the words of any test. A word that is in no list
counts as a noun; where that is uncertain, the rules decide for a violation.
"""

ARTICLES = frozenset({"a", "an"})
DEFINITE = frozenset(
    "the this that these those his her hers its their my our your whose every each all both "
    "half another".split()
)
NUMBERS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve dozen dozens hundred hundreds "
    "thousand thousands single several some many few lots countless numerous various plenty "
    "multiple pair couple first second third".split()
)
QUANTITY = frozenset("many much lots enough excessive excess overly too every all".split())
"""After a negation these mean that some of the thing remains: "not many", "without too much"."""
DETERMINERS = ARTICLES | DEFINITE | NUMBERS

OF_LIKE = frozenset("of like".split())
LOCATIVE = frozenset(
    "on onto in into inside within at near under underneath over above below beneath behind "
    "beside between among across against along around beyond through throughout past toward "
    "towards from by upon off outside down up atop amid round to alongside".split()
)
PREPOSITIONS = LOCATIVE | OF_LIKE | frozenset("for about during after before per via".split())

SHOW_VERBS = frozenset(
    "show shows showing shown showed add adds adding added include includes including included "
    "print prints printing printed draw draws drawing drawn paint paints painting painted render "
    "renders rendering rendered place places placing placed put puts putting depict depicts "
    "depicting depicted display displays displaying displayed feature features featuring featured "
    "use uses using used write writes writing written insert inserts inserting inserted generate "
    "generates generating generated create creates creating created contain contains containing "
    "contained allow allows allowing allowed permit permits permitting permitted have having has "
    "had want wants wanting wanted need needs needing needed see sees seeing seen wear wears "
    "wearing carry carrying carries carried hold holds holding bear bears bearing let lets letting "
    "overlay overlays overlaying overlaid overlain apply applies applied introduce introduces "
    "introducing introduced imply implying give gives giving make makes making made designing "
    "designed attach attaches attaching attached applying find finds finding stamping stamped "
    "emboss embossing embossed engrave engraved superimpose superimposing superimposed produce "
    "produces producing produced suggest suggests suggesting presenting bring brings bringing "
    "expose exposing reveal reveals revealing revealed hang hangs hanging mount mounting mounted "
    "incorporate incorporates incorporating incorporated covered cluttered filled decorated "
    "decorate decorating expect expects expecting fill filling".split()
)
"""Verbs of making or showing: under a negation their object is absent."""

MATERIALS = frozenset(
    "linen oak walnut marble stone brick brass copper bronze steel iron ceramic porcelain velvet "
    "silk cotton leather denim bamboo granite concrete wicker straw clay terracotta chrome "
    "cardboard felt wool pine birch cedar teak slate limestone sandstone crystal pewter tin "
    "enamel satin tweed suede jute rattan plaster timber".split()
)
"""Nouns that describe the next noun: in "no candles, linen napkins" they begin a new phrase."""

FINITE = frozenset(
    "stand stands sit sits lie lies hang hangs float floats glow glows shine shines swim swims "
    "drift drifts sway sways burn burns bloom blooms grow grows gather gathers march marches "
    "stretch stretches rise fly appear appears dance dances sleep sleeps rest rests graze grazes "
    "wait waits move moves fall falls follow follows cover covers fill fills dominate dominates "
    "surround surrounds climb climbs hover hovers gleam gleams sparkle sparkles tower towers "
    "lean leans rests roam roams wander wanders is are was were be been being has have had does "
    "do did".split()
)
"""Verbs if they follow a noun; then a new sentence has begun."""

IMPERATIVES = frozenset(
    "show add include draw paint render place put depict display use write insert generate create "
    "keep let give make bring hang set stage leave compose frame light shoot capture fill".split()
)
"""Commands if they begin a list item: "no text, add a lantern"."""

CHANGES = frozenset(
    "change changes alteration alterations edit edits modification modifications distortion "
    "distortions damage cropping blurring smudging warping deformation obstruction tampering "
    "covering hiding adjustment adjustments tweak tweaks harm".split()
)

PRESUPPOSING = CHANGES | frozenset(
    "glare reflection reflections scratch scratches shadow shadows crease creases smudge smudges "
    "dust blur fading wear fold folds wrinkle wrinkles dent dents stain stains cut cuts crop "
    "crops".split()
)
"""Flaws and actions whose object must exist: "no change to X" does not negate X."""

LIST_ADJECTIVES = frozenset(
    "visible readable legible recognizable recognisable identifiable extra additional unwanted "
    "distracting random stray floating printed written overlaid embedded fake other any brand "
    "human modern such specific obvious apparent discernible noticeable actual real further more "
    "unnecessary accidental superfluous added on-screen company corporate stock handwritten or "
    "whatsoever text product traffic street road commercial".split()
)
"""Adjectives for things that are usually excluded; they do not end a negated list."""

NOUNS_TOO = frozenset("text product traffic street road brand human company stock".split())
"""Those of LIST_ADJECTIVES that are also nouns: "no text with X"."""

FILLERS = frozenset(
    "whatsoever alike together anywhere please at sight ever either present visible kind sort type "
    "kinds sorts types shown allowed wanted".split()
)

SCENE = frozenset(
    "image images picture pictures frame scene shot photo photograph background composition "
    "foreground view design artwork illustration render rendering canvas layout sight".split()
)

ADJECTIVES = frozenset(
    """
    red green blue yellow orange purple pink brown black white grey gray golden silver teal navy
    crimson scarlet turquoise beige ivory amber violet indigo maroon magenta cyan lilac lavender
    pastel monochrome multicolored rainbow big large small tiny huge giant massive oversized
    miniature little tall short long wide narrow thin thick slim slender broad deep shallow high
    low gigantic towering vast bright dark dim pale vivid vibrant muted glowing shiny glossy
    matte brilliant dazzling radiant sparkling shimmering gleaming glittering sunny sunlit
    moonlit backlit candlelit misty foggy hazy cloudy rainy snowy stormy windy frosty icy dusty
    smoky steamy muddy wet dry damp clear crisp sharp soft hard smooth rough coarse fuzzy fluffy
    furry silky velvety grainy rusty weathered worn old new ancient antique vintage retro
    classic modern contemporary futuristic rustic elegant simple plain minimal minimalist
    minimalistic bold subtle delicate ornate fancy lush dense sparse empty full bare clean dirty
    messy tidy neat quiet calm serene gentle tranquil still busy lively noisy loud silent happy
    sad angry smiling laughing sleepy lazy proud brave shy young elderly adult baby wild tame
    feral warm hot cold cool cozy cosy fresh ripe raw crunchy crusty juicy sweet sour bitter
    spicy tasty creamy golden-brown toasted roasted fried baked grilled sliced chopped whole
    round square rectangular circular oval triangular curved straight flat curly wavy spiral
    wooden metallic woolen woollen leathery stony sandy grassy leafy mossy rocky earthy pretty
    lovely stunning handsome cute adorable ugly scary creepy eerie spooky magical mystical
    dreamy surreal abstract realistic photorealistic hyperrealistic cinematic dramatic epic
    majestic grand royal regal luxury expensive cheap lone lonely solitary single distant
    faraway nearby central main primary prominent dominant hidden secret open closed broken
    cracked shattered torn folded stacked scattered parked leaning floating flying drifting
    hanging standing sitting running walking lying resting waiting grazing fine rich poor strong
    weak heavy light lightweight fast slow steep gradual natural artificial organic botanical
    floral tropical nordic scandinavian japanese chinese french italian victorian medieval
    gothic baroque industrial urban rural coastal alpine arctic unusual strange weird odd iconic
    legendary traditional typical common rare unique special favourite favorite perfect ideal
    good great nice bad best better different similar same own real true pure transparent
    translucent opaque hollow solid liquid frozen molten early late overcast painterly moody
    ambient volumetric diffused diffuse overhead detailed intricate high-quality professional
    editorial festive friendly cheery chubby blurred blurry sepia neon electric mechanical
    digital analog handmade hand-painted lit built grown blown drawn woven spilt hung bent burnt
    sunken fallen strewn cast spread set kept held split wound hewn carved bound lost found shut
    slung strung swept thrown isolated centered centred symmetrical asymmetrical dappled
    autumnal wintry summery
    """.split()
)

ING_NOUNS = frozenset(
    """
    lettering branding writing clothing building painting drawing ceiling railing string
    lightning packaging wiring bunting marking etching stitching awning morning evening earring
    spring thing being swing sling wedding piercing scaffolding flooring lighting tubing piping
    bedding frosting icing pudding stuffing topping seasoning plating coating edging trimming
    fencing housing parking crossing opening landing rigging engraving lining wrapping cutting
    listing heading signing binding moulding molding covering furnishing duckling gosling
    dressing filling paving roofing siding shelving sibling bling viking pricing anything
    something nothing everything
    """.split()
)
ED_NOUNS = frozenset("speed steed bleed breed greed hundred kindred sacred biped moped".split())

# For phrases after a mention that negate it: "none", "removed", "not visible" (`after`).
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


def is_ing(word: str) -> bool:
    """Whether a word reads as a participle: walking, but not ceiling."""
    return len(word) > 4 and word.endswith("ing") and word not in ING_NOUNS


def is_ed(word: str) -> bool:
    """Whether a word reads as a past participle: folded, but not bed."""
    return len(word) > 4 and word.endswith("ed") and word not in ED_NOUNS


def is_adjective(word: str) -> bool:
    """Whether a word reads as an adjective."""
    if word in ADJECTIVES:
        return True
    return len(word) > 5 and word.endswith(("ous", "ful", "ish", "esque", "less", "iest", "ier"))

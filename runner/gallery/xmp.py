"""The XMP packet, in which laws and picture agencies expect the mark "made by AI".

The value of `Iptc4xmpExt:DigitalSourceType` begins with `http:`, as the vocabulary is registered;
readers compare the text. The IPTC 2025.1 fields name the model and the prompt.
"""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from runner.gallery.formatting import COMPOSITE, COMPOSITE_KINDS, TRAINED, made_with, mapping

# XML 1.0 cannot contain these characters, not even as references.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
    '<rdf:Description rdf:about=""\n'
    '  xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
    '  xmlns:xmp="http://ns.adobe.com/xap/1.0/"\n'
    '  xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"\n'
    '  xmlns:fluxdrop="urn:fluxdrop:metadata:1:">\n'
)
_TAIL = '</rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="r"?>'


def packet(sidecar: Mapping[str, Any], *, full: bool, spec: str = "") -> bytes:
    """The packet of one picture; without `full` only its source type and the program.

    `spec` is the sidecar as JSON, for the formats that have no text chunk for it.
    """
    result = mapping(sidecar.get("result"))
    keeps = sidecar.get("kind") in COMPOSITE_KINDS and "image" in sidecar
    source = COMPOSITE if keeps else TRAINED
    fields = [
        ("Iptc4xmpExt:DigitalSourceType", source),
        ("xmp:CreatorTool", made_with(result)),
    ]
    if full:
        model = mapping(result.get("model"))
        prompt = str(sidecar.get("prompt") or "")
        fields += [
            ("xmp:CreateDate", str(result.get("created_at") or "")),
            ("Iptc4xmpExt:AISystemUsed", str(model.get("repo") or sidecar.get("model") or "")),
            ("Iptc4xmpExt:AISystemVersionUsed", str(model.get("revision") or "")),
            ("Iptc4xmpExt:AIPromptInformation", prompt),
            ("fluxdrop:spec", spec),
        ]
    lines = [f"<{name}>{_text(value)}</{name}>\n" for name, value in fields if value]
    if full and (tags := sidecar.get("tags")):
        items = "".join(f"<rdf:li>{_text(str(tag))}</rdf:li>" for tag in tags)
        lines.append(f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>\n")
    if full and prompt:
        lines.append(
            '<dc:description><rdf:Alt><rdf:li xml:lang="x-default">'
            f"{_text(prompt)}</rdf:li></rdf:Alt></dc:description>\n"
        )
    return (_HEAD + "".join(lines) + _TAIL).encode()


def spec_in(packet_bytes: bytes) -> str | None:
    """The JSON that fluxdrop put into a packet, or None.

    Found as text, so that no XML parser reads a file of unknown origin.
    """
    _, _, rest = packet_bytes.decode("utf-8", "replace").partition("<fluxdrop:spec>")
    spec, closed, _ = rest.partition("</fluxdrop:spec>")
    if not closed:
        return None
    return spec.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _text(value: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", value), quote=False).replace("\r", "&#13;")

"""What is shown to people: text of unknown origin, made harmless for a terminal or a log.

File names, keys and prompts come from all who may write to the inbox, and statuses from all
who may write to the outbox. All that is printed or logged passes through `escaped`.
"""

import re

# All control characters but tab and line end, among them ESC and the carriage return, that hides
# what stands before it; what turns the direction of text; line ends that only some programs know.
_ACTING = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


def escaped(text: str) -> str:
    """The text with what would act on a terminal as `\\uXXXX`, which is right within JSON, too."""
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def on_one_line(text: str) -> str:
    """The text, escaped, without line ends: a name must not look like another line."""
    return escaped(text).replace("\n", "\\n")


def size_text(count: float) -> str:
    """A number of bytes in decimal units: "512 bytes", "1.5 kB", "2.0 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"

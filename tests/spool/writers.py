"""Naive writers: shell scripts that put a spec into a folder the way people and programs do.

Every line-prefix of the spec, from the second line on, is a spec too. A script finds its source in
$SPEC, its target in $TARGET, and marks the moments at which it closed an unfinished file in $MARKS.
Nothing here runs anything.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from specs.read import read
from specs.validate import validate

LINES = (
    "kind: text2img",
    "prompt: a red circle on a blue background, in the manner of a woodcut",
    "model: tiny",
    "seed: 7",
    "tags: [night]",
    "steps: 13",
    "notes: every line of this spec may be missing, and it is a spec all the same",
)
START = 2
"""Lines that a spec must have to be one; a writer that pauses writes them in one go."""

SHELL = """
set -e
mark() { read -r now _ < /proc/uptime; echo "$now" >> "$MARKS"; }  # just after a close
pieces() { n=0; while [ "$n" -lt 12 ]; do
  dd if="$SPEC" bs="$PIECE" skip="$n" count=1 2>/dev/null; sleep 0.1; n=$((n + 1)); done; }
lines() { head -n "$START" "$SPEC"; tail -n "+$((START + 1))" "$SPEC" |
  while IFS= read -r line; do sleep 0.15; printf '%s\\n' "$line"; done; }
append() { head -n "$START" "$SPEC" > "$TARGET"; mark; tail -n "+$((START + 1))" "$SPEC" |
  while IFS= read -r line; do sleep "$1"; printf '%s\\n' "$line" >> "$TARGET"; mark; done; }
half() { head -n 4 "$SPEC"; }
"""
APPEND = """
import sys, time, pathlib
source, target, marks, start = sys.argv[1:5]
lines = pathlib.Path(source).read_text(encoding="utf-8").splitlines(keepends=True)
start = int(start)
for n, piece in enumerate(["".join(lines[:start]), *lines[start:]]):
    time.sleep(0.2 if n else 0)
    with open(target, "a", encoding="utf-8") as file: file.write(piece)
    with open(marks, "a") as file: file.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.2f}\\n")
"""
IN_PLACE = """
import os, sys, time, pathlib
whole = pathlib.Path(sys.argv[1]).read_bytes()
with open(sys.argv[2], "wb", buffering=0) as file:
    file.truncate(len(whole))
    for n in range(0, len(whole), 40):
        time.sleep(0.15); file.write(whole[n:n + 40])
"""


@dataclass(frozen=True)
class Writer:
    """One way of putting a spec into a folder, as a shell script; `hole` is the documented one."""

    name: str
    script: str
    needs: str = "sh"
    hole: bool = False


WRITERS = (
    Writer("cat, bytes dribbled into one open file", 'pieces | cat > "$TARGET"'),
    Writer("shell, lines dribbled into one open file", 'lines > "$TARGET"'),
    Writer("stalls in mid-file, holding it open",
      '(half; sleep 2; tail -n +5 "$SPEC") > "$TARGET"'),
    Writer("cp", 'cp "$SPEC" "$TARGET"'),
    Writer("cp -p of a file from 2001", 'touch -d 2001-01-01 "$SPEC"; cp -p "$SPEC" "$TARGET"'),
    Writer("cp, then touch -d 2099", 'cp "$SPEC" "$TARGET"; touch -d 2099-01-01 "$TARGET"'),
    Writer("dd, slow input", 'pieces | dd of="$TARGET" bs=512 2>/dev/null', "dd"),
    Writer("dd, one call a block", """n=0; while [ "$n" -lt 12 ]; do
      dd if="$SPEC" of="$TARGET" bs="$PIECE" skip=$n seek=$n count=1 conv=notrunc 2>/dev/null
      mark; sleep 0.05; n=$((n + 1)); done""", "dd"),
    Writer("cp, then sed -i", """half | sed s/woodcut/drawing/ > "$SPEC.old"
      cp "$SPEC.old" "$TARGET"; mark; tail -n +5 "$SPEC" > "$SPEC.tail"
      sed -i -e s/drawing/woodcut/ -e "\\$r $SPEC.tail" "$TARGET"; mark""", "sed"),
    Writer("vim, saved twice", """half > "$SPEC.old"
      vim -es -N -u NONE -i NONE "$TARGET" -c "0r $SPEC.old" -c w \\
        -c "%d _" -c "0r $SPEC" -c wq""", "vim"),
    Writer("vim, half a file opened with backup on", """half > "$TARGET"; mark
      vim -es -N -u NONE -i NONE "$TARGET" -c 'set backup backupcopy=no' \\
        -c "%d _" -c "0r $SPEC" -c wq; mark""", "vim"),
    Writer("python: open, append, close, wait 0.2 s", '"$PYTHON" -ISE -c "$CODE" "$SPEC" "$TARGET"'
      ' "$MARKS" "$START"'),
    Writer("shell: >> a line, wait 0.15 s", "append 0.15"),
    Writer("editor: old to name~, new written slowly", """half > "$TARGET"; mark
      mv "$TARGET" "$TARGET~"; mark; lines > "$TARGET\""""),
    Writer("editor: .goutputstream-, renamed over",
      'lines > "$INBOX/.goutputstream-$NAME"; mv "$INBOX/.goutputstream-$NAME" "$TARGET"'),
    Writer("editor: saved in place twice", 'half > "$TARGET"; mark; (mark; lines) > "$TARGET"'),
    Writer("name.tmp, renamed in the folder", 'lines > "$TARGET.tmp"; mv "$TARGET.tmp" "$TARGET"'),
    Writer("written elsewhere, renamed in",
      'mkdir -p "$INBOX/.tmp"; lines > "$INBOX/.tmp/$NAME"; mv "$INBOX/.tmp/$NAME" "$TARGET"'),
    Writer("written elsewhere, hard link in", 'mkdir -p "$INBOX/.tmp"; lines > "$INBOX/.tmp/$NAME"'
      '; ln "$INBOX/.tmp/$NAME" "$TARGET"; rm "$INBOX/.tmp/$NAME"'),
    Writer("full size of zeros, filled in place",
      '"$PYTHON" -ISE -c "$IN_PLACE" "$SPEC" "$TARGET"'),
    Writer("rsync", 'rsync "$SPEC" "$TARGET"', "rsync"),
    Writer("rsync --inplace, slow", 'rsync --inplace --bwlimit=1 "$SPEC" "$TARGET"', "rsync"),
    Writer("closed for 0.6 s between appends", "append 0.6", hole=True),
    Writer("closed for 1.3 s between appends", "append 1.3", hole=True),
)  # fmt: skip
FORMS = ("plain", "marked", "json")


def spec(form: str) -> bytes:
    """The same spec as plain YAML, as YAML that ends with its marker, or as JSON."""
    if form == "json":
        value = validate(read("\n".join(LINES).encode()))
        return json.dumps(value, indent=1).encode() + b"\n"
    return "\n".join([*LINES, "..."] if form == "marked" else LINES).encode() + b"\n"

"""Takes up changed settings while the runner is idle, and says what is not taken up.

A file that cannot be used, or is gone, changes nothing.
"""

import logging

from runner.errors import UsageProblem
from runner.settings import NAMES, SETTINGS_FILE, TAKEN_UP, Home, load_settings, stamp_of

log = logging.getLogger(__name__)


class SettingsWatch:
    """Compares the settings that one runner works with to the file that they were read from.

    `note` says what of the file is not in force, and what to do.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._wanted = home.settings
        self._read = self._seen = home.settings.stamp
        self._problem = ""
        self.note: str | None = None

    def look(self, *, idle: bool) -> None:
        """Read the file again where it has changed; `idle` says that settings may be taken up."""
        if self._read is None:
            return
        file = self._home.root / SETTINGS_FILE
        stamp = stamp_of(file)
        # At rest since the last look: an editor may have been in the midst of it.
        if stamp != self._read and stamp == self._seen:
            self._read, self._problem = stamp, ""
            try:
                if not stamp:
                    raise UsageProblem(f"{file} is gone")
                self._wanted = load_settings(file)
            except UsageProblem as error:
                self._wanted = self._home.settings
                why = "; ".join(map(str, error.args))
                self._problem = f"the runner goes on with its settings from before: {why}"
        self._seen = stamp
        changed = [n for n in NAMES if getattr(self._wanted, n) != getattr(self._home.settings, n)]
        ready = [name for name in changed if name in TAKEN_UP]
        if idle and ready:
            self._home.take_up(self._wanted, ready)
            log.info("settings taken up: %s", ", ".join(ready))
        again = ", ".join(name for name in changed if name not in TAKEN_UP)
        note = self._problem
        if again:
            note = f"{file.name} was changed after the runner started: restart it for {again}"
        if note and note != self.note:
            log.warning("%s", note)
        if ready and not (idle or note):
            note = f"{file.name} was changed: {', '.join(ready)} will be taken up once it is idle"
        self.note = note or None

"""Places: the folders of a home that a runner works in, recognised when disks and folders move.

While a disk is unmounted, or a home was moved, something else lies at the old path: an empty mount
point, or another home. Nothing may be written there, nor taken from there. A place is known by its
device and inode; where a disk comes back under other numbers, by a hidden file that was made in it.
Never mends anything: the caller has to wait.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from runner.errors import PlaceAway

_AWAY = (
    "{} is not the folder that this runner began with (unmounted, moved or replaced): put it back "
    "and jobs go on, or restart the runner to use what is there now"
)
_UNMOUNTED = (
    "{} was on the disk of {}, where none is mounted now: mount it, or remove {} if the folder is "
    "elsewhere for good"
)


class Places:
    """The places of one runner; until they are pinned, none of them is away."""

    def __init__(self) -> None:
        self._places: tuple[_Place, ...] = ()

    def pin(self, *, inbox: Path, outbox: Path, data: Path) -> None:
        """Take the folders that are there now for the places of this runner. Raises OSError."""
        self.unpin()
        self._places = (
            # Without a mark: the ledger is open in that very folder.
            _Place(data, marked=False, below=""),
            # A sync tool, or a person, may make the inbox anew: nothing is kept in it.
            _Place(inbox, replaceable=True),
            _Place(outbox),
        )

    def tend_marks(self) -> None:
        """Make marks again that were tidied away; none while a place is away."""
        if self.away() is None:
            for place in self._places:
                place.tend_mark()

    def unpin(self) -> None:
        """Forget the places and remove their marks."""
        for place in self._places:
            place.remove_mark()
        self._places = ()

    def away(self) -> str | None:
        """The sentence about a place that is away; None while all of them are there."""
        for place in self._places:
            if not place.is_there():
                return _AWAY.format(place.folder)
        return None

    def check(self, path: str | Path) -> None:
        """Raise PlaceAway where the place of a path is away, or `data` is.

        Without its data a runner owns nothing: another may hold the home that is there now.
        """
        text = os.fspath(path)
        for place in self._places:
            if text.startswith(place.below) and not place.is_there():
                raise PlaceAway(_AWAY.format(place.folder))


class _Place:
    """One folder; while it is away, nothing is done with a path that begins with `below`."""

    def __init__(
        self, folder: Path, *,
        marked: bool = True, replaceable: bool = False, below: str | None = None,
    ) -> None:  # fmt: skip
        self.folder = os.fspath(folder)
        self.below = self.folder if below is None else below
        self._identity = identity_of(self.folder)
        self._marked, self._replaceable = marked, replaceable
        self._was_away = False
        self._mark: str | None = None
        self.tend_mark()

    def tend_mark(self) -> None:
        """Make the mark unless it is there; where none can be made, the numbers have to do."""
        if not self._marked or (self._mark is not None and os.path.lexists(self._mark)):
            return
        if self.is_there():
            with contextlib.suppress(OSError):
                handle, self._mark = tempfile.mkstemp(".writing", ".place-", self.folder)
                os.close(handle)

    def is_there(self) -> bool:
        """Whether the folder at the path is this place."""
        try:
            identity = identity_of(self.folder)
        except OSError:
            self._was_away = True
            return False
        if identity == self._identity and not self._was_away:
            return True
        # From here on the numbers are not enough: two disks may have the same.
        self._was_away = True
        if self._mark is not None and os.path.lexists(self._mark):
            is_it = True
        elif self._replaceable:
            is_it = identity[0] == self._identity[0]
        else:
            is_it = self._mark is None and identity == self._identity
        if is_it:
            self._identity, self._was_away = identity, False
        return is_it

    def remove_mark(self) -> None:
        if self._mark is not None and self.is_there():
            with contextlib.suppress(OSError):
                os.unlink(self._mark)


def identity_of(folder: str | Path) -> tuple[int, int | str]:
    """The device of a folder, and what tells it from others there. Raises OSError."""
    status = os.stat(folder)
    # Some shares on Windows give all files the number 0.
    return status.st_dev, status.st_ino or os.path.realpath(folder)


def mounts_of(folders: Collection[Path], data: Path) -> dict[str, str]:
    """The mount points of those folders that lie on another one than `data`, by folder."""
    home = _mount_of(data)
    mounts = {str(folder): _mount_of(folder) for folder in folders}
    return {folder: mount for folder, mount in mounts.items() if mount != home}


def _mount_of(folder: Path) -> str:
    path = os.path.realpath(folder)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


def read_mounts(file: Path) -> Mapping[str, str]:
    """What `mounts_of` said when the last runner began; empty where it cannot be read."""
    try:
        mounts = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return mounts if isinstance(mounts, dict) else {}


def refuse_unmounted(folders: Collection[Path], file: Path) -> None:
    """Raise PlaceAway where a folder lay on a disk that is not mounted now."""
    mounts = read_mounts(file)
    for folder in folders:
        mount = mounts.get(str(folder))
        if mount is None:
            continue
        # An automounter mounts a disk when something in it is looked at.
        os.path.exists(f"{mount}/.")
        if not os.path.ismount(mount):
            raise PlaceAway(_UNMOUNTED.format(folder, mount, file))

"""Opens what lies below a folder that others may write to, so that no planted link is followed.

In the inbox and the outbox a user who may write there can replace a folder or a file by a link at
any moment. Here every folder below such a `shared` one is opened without following, and the work is
done by its handle; new files are made exclusively. Windows has no such handles: there the folders
are looked at first, and links and junctions refused. The shared folder itself may be a link, for
the owner of the home chose it. Never removes or replaces anything but the name that is given.
"""

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_BY_HANDLE = os.open in os.supports_dir_fd
_SEPARATORS = "/\\\\" if os.name == "nt" else "/"  # as in a set of a regular expression
_HANDLE = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def parent(path: str | Path, shared: Sequence[str]) -> Iterator[tuple[int | None, str]]:
    """The folder of a path as a handle for `dir_fd`, and the name in it; None and the path itself
    where no folder lies between it and a shared one.

    Raises OSError (ELOOP) where something else than a folder stands on the way.
    """
    path = os.fspath(path)
    folder, name = os.path.split(path)
    root = next((root for root in shared if _is_below(folder, root)), None)
    if root is None:
        yield None, path
        return
    steps = [step for step in re.split(f"[{_SEPARATORS}]", folder[len(root) :]) if step]
    if not _BY_HANDLE:
        _refuse_links(root, steps)
        yield None, path
        return
    handle = os.open(root, _HANDLE)
    try:
        for step in steps:
            try:
                inner = os.open(step, _HANDLE | _NO_LINK, dir_fd=handle)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise _in_the_way(folder) from None
                raise
            os.close(handle)
            handle = inner
        yield handle, name
    except OSError as error:
        # It has the bare name, which says nothing to whoever reads the message.
        if error.filename == name:
            error.filename = path
        if error.filename2 == name:
            error.filename2 = path
        raise
    finally:
        os.close(handle)


def create(path: str | Path, shared: Sequence[str]) -> int:
    """Make a file and open it for writing. Raises FileExistsError where the name is taken."""
    with parent(path, shared) as (folder, name):
        return os.open(name, _NEW, 0o666, dir_fd=folder)


def rename(old: str | Path, new: str | Path, shared: Sequence[str]) -> None:
    """Rename, replacing an existing file."""
    with parent(old, shared) as (source, name), parent(new, shared) as (target, new_name):
        os.replace(name, new_name, src_dir_fd=source, dst_dir_fd=target)


def rename_to_free(old: str | Path, new: str | Path, shared: Sequence[str]) -> bool:
    """Rename to a free name; False, with nothing changed, where that name is taken.

    Raises OSError where the file system cannot do that without overwriting.
    """
    with parent(old, shared) as (source, name), parent(new, shared) as (target, new_name):
        try:
            if sys.platform == "win32":
                os.rename(name, new_name)  # refuses to replace there
            else:
                os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                os.unlink(name, dir_fd=source)
        except FileExistsError:
            return False
    return True


def remove(path: str | Path, shared: Sequence[str]) -> None:
    """Remove a file. Raises FileNotFoundError where there is none."""
    with parent(path, shared) as (folder, name):
        os.unlink(name, dir_fd=folder)


def make_folder(path: str | Path, shared: Sequence[str]) -> bool:
    """Make a folder and those above it, up to a shared one; whether it is new."""
    try:
        return _make_one(path, shared)
    except FileNotFoundError:
        above = os.path.dirname(path)
        if above == os.fspath(path):
            raise
        make_folder(above, shared)
        # Once: below a link that leads nowhere it fails again.
        return _make_one(path, shared)


def _make_one(path: str | Path, shared: Sequence[str]) -> bool:
    try:
        with parent(path, shared) as (folder, name):
            os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _is_below(folder: str, root: str) -> bool:
    return folder.startswith(root) and folder[len(root) : len(root) + 1] in tuple(_SEPARATORS)


def _refuse_links(root: str, steps: Sequence[str]) -> None:
    place = root
    for step in steps:
        place = os.path.join(place, step)
        if is_link(place) or not stat.S_ISDIR(os.lstat(place).st_mode):
            raise _in_the_way(place)


def is_link(path: str | Path) -> bool:
    """Whether a name is a symlink, or on Windows a junction; False where there is none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if sys.platform == "win32":
        return status.st_reparse_tag in (
            stat.IO_REPARSE_TAG_SYMLINK,
            stat.IO_REPARSE_TAG_MOUNT_POINT,
        )
    else:
        return stat.S_ISLNK(status.st_mode)


def _in_the_way(folder: str) -> OSError:
    return OSError(errno.ELOOP, "a link or a file stands in the place of this folder", folder)

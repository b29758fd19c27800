"""What is logged: errors on standard error, and all that a runner does in `data/logs/runner.log`.

The file has a JSON object in each line. A message about a job begins with "job" and its id, which
becomes the object's `job`. No prompt is in it, unless the setting `log_prompts` asks for them.
"""

import json
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler, RotatingFileHandler
from pathlib import Path
from queue import SimpleQueue

from runner.clock import timestamp
from runner.errors import UsageProblem
from runner.terminal import escaped, on_one_line

FILE = "logs/runner.log"
"""In the folder `data`; older ones have numbers behind the name."""
_BYTES, _OLDER = 2 << 20, 4
# At INFO, too: a person who read of a fault waits for its end.
_SHOWN = ("runner.log_once", "runner.daemon.settings_watch", "runner.daemon.tidying")
_JOB = re.compile(r"job ([A-Za-z0-9][\w.-]*)", re.ASCII)


class _Harmless(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return on_one_line(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))  # the traceback, too


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        found = _JOB.match(message := record.getMessage())
        told = {"at": timestamp(record.created), "level": record.levelname.lower()}
        told |= {"logger": record.name, **({"job": found[1]} if found else {}), "message": message}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class _File(RotatingFileHandler):
    def doRollover(self) -> None:
        self.close()
        file = self.baseFilename
        with suppress(OSError):
            # First: on Windows none that another reads gets another name, and it goes on.
            os.replace(file, f"{file}.0")
            for number in reversed(range(_OLDER)):
                with suppress(FileNotFoundError):
                    os.replace(f"{file}.{number}", f"{file}.{number + 1}")


def _level() -> int:
    return logging.INFO if os.environ.get("FLUXDROP_DEBUG") else logging.ERROR


def log_to_stderr() -> None:
    """Send log records to standard error: errors only, from INFO on with FLUXDROP_DEBUG set."""
    level = _level()
    handler = logging.StreamHandler()
    handler.setFormatter(_Harmless("%(asctime)s %(name)s: %(message)s"))
    handler.addFilter(lambda each: each.levelno >= level or each.name in _SHOWN)
    logging.basicConfig(level=level, handlers=[handler])


def log_to_file(data: Path) -> None:
    """Send log records to the file in this folder, too, ours from INFO on. Raises UsageProblem."""
    file = data / FILE
    try:
        file.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageProblem(f"cannot make the folder {file.parent}: {error.strerror}") from error
    handler = _File(file, "a", _BYTES, encoding="utf-8", delay=True)
    handler.setFormatter(_Json())
    # A disk without room costs lines, and must not fill standard error.
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger("runner").setLevel(logging.INFO)


def log_to_parent(tell: Callable[[logging.LogRecord], None]) -> None:
    """Have log records, made so that they can be pickled, told to the process that logs them."""
    handler = QueueHandler(SimpleQueue())
    handler.enqueue = tell  # type: ignore[assignment, method-assign]
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(_level())
    logging.getLogger("runner").setLevel(logging.INFO)

"""Errors for people: one sentence that names the offender and the remedy, never a traceback."""

from __future__ import annotations

import difflib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

# Of the operating system's errors, these are the user's to mend; the rest are ours and keep a traceback.
_USERS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}


# Characters of a key or value that messages show.
_LONGEST = 60


class UserError(Exception):
    """A mistake or a circumstance the user can mend. The message is shown as it is."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest known name, else the list of all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"


def key_text(key: Any) -> str:
    """Return a key as messages name it: as YAML writes it, in one line, and not endless."""
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return _short("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(key)))


def value_text(value: Any) -> str:
    """Return a value as messages show it: text in quotes, in one line, and not endless."""
    return "nothing" if value is None else _short(repr(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def warn_collapsed(layers: Iterable[str], ratio: float) -> None:
    """Say which layers nothing is left of."""
    for name in layers:
        print(f"warning: nothing is left of layer '{name}' at ratio {ratio:g}", file=sys.stderr)


def run(main: Callable[[], None]) -> NoReturn:
    """Run a program's `main`; a `UserError` becomes one line on stderr and exit status 1.

    SIGTERM unwinds the stack like an exception, so that temporary files are removed.
    """
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.errno not in _USERS:
            raise
        sys.exit(f"error: {error.strerror}: {error.filename or 'while writing'}")
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is on disk by now, and taking down a process that imported torch takes most of a second.
    os._exit(0)

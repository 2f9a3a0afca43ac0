"""How a command ends: an exit code, and one line on stderr where it did not end well.

The codes of what the user can mend stand with their errors (`errors.py`); those of signals, of bugs
and of readers that have left stand here.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from unet_pipeline.console import log_to_stderr, print_error
from unet_pipeline.errors import ResourceError, UserError
from unet_pipeline.files import resource_reason

LEFT = "files that are written are whole, and stay"
_SHOWN = 80  # characters of a name that is too long

LEFT_NOTHING = "no dataset was written or changed"


def exit_code_of(command: Callable[[], int], *, left: str = LEFT) -> int:
    """What `command` returns, or the exit code of its error after one line about that on stderr.

    left: what is told of its files where a signal ends it. Log lines go to stderr meanwhile. A bug
    is told with its traceback. SIGTERM ends the program with 143 after clean-up, as `SystemExit`.
    """
    log_to_stderr()
    with _terminate_as_exit(left):
        try:
            return command()
        except UserError as error:
            print_error(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            print_error(f"interrupted; {left}")
            return 130
        except BrokenPipeError:  # the reader of our stdout has left; nobody is there to be told
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                print_error(f"{_short(error.filename)}: the name is too long; choose a shorter one")
                return UserError.exit_code
            reason = resource_reason(error)
            if reason is None:
                return _report_bug(error)
            print_error(f"{error.filename or 'cannot go on'}: {reason}")
            return ResourceError.exit_code
        except Exception as error:  # noqa: BLE001 - the last resort: a bug, told as one
            return _report_bug(error)


def leave(code: int) -> NoReturn:
    """End the process with `code`, after its threads and what is registered for its end.

    Without taking down the interpreter and the libraries one object at a time: with torch and
    MLflow that took 4 s on a busy machine, and threads of gloo's that are left aborted every third
    process of torchrun's (exit code -6).
    """
    threading._shutdown()  # type: ignore[attr-defined]  # ends pools first, whose threads wait
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # its reader has left
            stream.flush()
    os._exit(code)


def _short(name: object) -> str:
    text = str(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _report_bug(error: Exception) -> int:
    traceback.print_exception(error)
    print_error(f"internal error: {error!r:.300}; this is a bug, please report the lines above")
    return 1


class _Terminated(BaseException):
    """SIGTERM or SIGHUP, raised in the main thread: files are closed and removed on the way out."""


@contextlib.contextmanager
def _terminate_as_exit(left: str) -> Iterator[None]:
    """Turn SIGTERM into exit code 143 and SIGHUP into 129 after clean-up.

    Training installs its own handlers; SIGHUP stays ignored where it is, as under `nohup`.
    """

    def raise_terminated(number: int, frame: FrameType | None) -> None:
        raise _Terminated(number)

    try:
        former = {
            number: signal.signal(number, raise_terminated)
            for number in (signal.SIGTERM, signal.SIGHUP)
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
    except ValueError:  # not the main thread: signals are not ours
        yield
        return
    try:
        yield
    except _Terminated as ending:
        print_error(f"terminated; {left}")
        sys.exit(128 + ending.args[0])
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

"""Workers of a backfill: this process, a pool of processes, or a Dask cluster."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple, Protocol

from flowtape.errors import StoreError, UsageError
from flowtape.version import __version__

RETRIES = 3
LONGEST_PAUSE = 30.0
_log = logging.getLogger(__name__)


class Failed(NamedTuple):
    """A call that failed at every attempt."""

    reason: str


class Pool(Protocol):
    """Carries out calls, and repeats those whose store failed or whose worker was lost."""

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each call and its result, or `Failed`, in the order of completion."""


class _Tries:
    """The attempts of each call, and the pause before the next round."""

    def __init__(self, retries: int) -> None:
        self._retries = retries
        self._failed: Counter[int] = Counter()
        self._rounds = 0

    def again(self, place: int, reason: str) -> bool:
        """Count a failure; return whether to try again."""
        self._failed[place] += 1
        _log.warning("a task failed", extra={"fields": {"reason": reason, "tries": self._failed[place]}})
        return self._failed[place] <= self._retries

    def wait(self) -> None:
        """Pause between two rounds, longer each time."""
        time.sleep(min(LONGEST_PAUSE, 0.5 * 2**self._rounds))
        self._rounds += 1


class Here:
    """This process, one call after the other."""

    def __init__(self, retries: int = RETRIES) -> None:
        self._retries = retries

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each call and its result, or `Failed`."""
        tries, left = _Tries(self._retries), list(range(len(calls)))
        while left:
            waiting, left = left, []
            for place in waiting:
                try:
                    yield place, function(*calls[place])
                except StoreError as error:
                    if tries.again(place, str(error)):
                        left.append(place)
                    else:
                        yield place, Failed(str(error))
            if left:
                tries.wait()


class Processes:
    """A pool of processes on this machine. A killed process breaks the pool; a new pool carries out the remaining
    calls."""

    def __init__(self, workers: int, retries: int = RETRIES) -> None:
        self._workers, self._retries = workers, retries

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each call and its result, or `Failed`, in the order of completion."""
        tries, left, lost = _Tries(self._retries), list(range(len(calls))), 0
        while left:
            waiting, left, broken = left, [], False
            for place, future in self._round(function, calls, waiting):
                try:
                    yield place, future.result()
                    lost = 0
                except BrokenProcessPool:
                    # The pool does not say which of the running calls broke it.
                    broken = True
                    left.append(place)
                except StoreError as error:
                    if tries.again(place, str(error)):
                        left.append(place)
                    else:
                        yield place, Failed(str(error))
            lost += broken
            if lost > self._retries:
                for place in left:
                    yield place, Failed(f"its worker was lost {lost} times")
                return
            if left and not broken:
                tries.wait()

    def _round(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], waiting: Sequence[int]
    ) -> Iterator[tuple[int, Future[Any]]]:
        # Not fork: a child would inherit the locks of this process's threads.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(min(self._workers, len(waiting)), mp_context=context)
        try:
            futures = {pool.submit(function, *calls[place]): place for place in waiting}
            for future in as_completed(futures):
                yield futures[future], future
        finally:
            pool.shutdown(cancel_futures=True)


class Dask:
    """A Dask cluster. Its workers have the same flowtape installed and see the files under the same names."""

    def __init__(self, address: str, retries: int = RETRIES, timeout: float = 10.0) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            raise UsageError("--on dask://… needs the extra: pip install 'flowtape[dask]'") from None
        self._retries = retries
        try:
            self._client = Client(address, timeout=timeout, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"--on {address!r}: no Dask scheduler there: {error}") from None
        self._check(address)

    def _check(self, address: str) -> None:
        try:
            found = self._client.run(_version)
        except Exception as error:
            self.close()
            raise UsageError(f"--on {address!r}: a worker cannot run flowtape: {error}") from None
        others = sorted({version for version in found.values() if version != __version__})
        if others:
            self.close()
            raise UsageError(f"--on {address!r}: a worker has flowtape {others[0]}, this is {__version__}")

    def run(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Yield the index of each call and its result, or `Failed`, in the order of completion."""
        from distributed import as_completed

        futures = {
            self._client.submit(function, *call, pure=False, retries=self._retries): place
            for place, call in enumerate(calls)
        }
        for future in as_completed(futures, loop=self._client.loop):
            error = future.exception()
            yield futures[future], future.result() if error is None else _failed(error)
            future.release()

    def close(self) -> None:
        """Close the client of the cluster."""
        self._client.close()


def _failed(error: BaseException) -> Failed:
    from distributed.scheduler import KilledWorker

    if isinstance(error, KilledWorker):
        return Failed("its worker was lost too often")
    if isinstance(error, StoreError):
        return Failed(str(error))
    raise error


def _version() -> str:
    return __version__

"""Where the tasks of `prepare` are worked on: this process, processes of this machine, or actors of a Ray cluster.

A pool takes tasks and says which have ended; what a task leaves is its chunk file, whoever made it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from trimask.core.errors import DataError
from trimask.core.extras import joined_ray
from trimask.core.remote import local
from trimask.data import chunks
from trimask.data.chunks import Chunk, Done, Task, Worker

AHEAD = 2
"""Tasks that wait for each worker, so that none is idle and few are held in memory."""


class Pool(ABC):
    """Workers; `room` says how many tasks more they take at once."""

    @property
    @abstractmethod
    def room(self) -> int: ...

    @property
    @abstractmethod
    def busy(self) -> bool: ...

    @abstractmethod
    def start(self, task: Task) -> None:
        """Have a task worked on."""

    @abstractmethod
    def ended(self) -> list[Done]:
        """What became of the tasks that ended, one at least; what a task raised is raised. Waits."""

    @abstractmethod
    def close(self) -> None:
        """Let workers end, with the tasks they are at."""


class Processes(Pool):
    """Processes of this machine, which write their chunks themselves."""

    def __init__(self, worker: Worker, workers: int):
        # A process takes its worker from a queue, which a thread fills: a parent that hands much to a child that dies
        # at its start (a script without a main guard) would wait for ever on a full pipe.
        context = get_context("spawn")
        self.hand_over = context.Queue()
        for _ in range(workers):
            self.hand_over.put(worker)
        start = {"initializer": chunks.start_process, "initargs": (self.hand_over,)}
        self.pool = ProcessPoolExecutor(workers, mp_context=context, **start)
        self.workers, self.running = workers, set[Future[Done]]()

    @property
    def room(self):
        return max(0, AHEAD * self.workers - len(self.running))

    @property
    def busy(self):
        return bool(self.running)

    def start(self, task):
        self.running.add(self._sure(lambda: self.pool.submit(chunks.run_task, task)))

    def ended(self):
        ended, self.running = wait(self.running, return_when=FIRST_COMPLETED)
        return self._sure(lambda: [future.result() for future in ended])

    def close(self):
        self.pool.shutdown(wait=True, cancel_futures=True)
        self.hand_over.cancel_join_thread()
        self.hand_over.close()

    @staticmethod
    def _sure(what: Any) -> Any:
        try:
            return what()
        except BrokenProcessPool:
            raise DataError(
                "a worker process ended; the finished chunks are kept. Out of memory? Run the same command again with "
                'fewer workers. Called from a script? Its work must stand under `if __name__ == "__main__":`'
            ) from None


class RayActors(Pool):
    """Actors of a Ray cluster, or of Ray on this machine where there is none.

    They send their chunks to this process, which writes them: a cluster need not share its disks. An actor that dies
    is started anew, and its tasks with it.
    """

    def __init__(self, worker: Worker, workers: int, gpus: float = 0.0):
        self.ray = joined_ray("--executor ray")
        self.folder, self.running = worker.folder, dict[Any, tuple[Task, int]]()
        # It is kept here, for actors that are started anew.
        self.worker = self._sure(lambda: self.ray.put(worker))
        kind = self.ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(Actor)
        self.actors: list[Any] = [kind.remote([self.worker]) for _ in range(workers)]
        self.waiting = [0] * workers

    @property
    def room(self):
        return sum(AHEAD - n for n in self.waiting)

    @property
    def busy(self):
        return bool(self.running)

    def start(self, task):
        number = min(range(len(self.actors)), key=self.waiting.__getitem__)
        self.waiting[number] += 1
        self.running[self._sure(lambda: self.actors[number].made.remote(task))] = task, number

    def ended(self):
        ready, _ = self._sure(lambda: self.ray.wait(list(self.running)))
        out = []
        for one in ready:
            task, number = self.running.pop(one)
            self.waiting[number] -= 1
            chunk: Chunk = self._sure(lambda one=one: self.ray.get(one))
            chunks.write_chunk(self.folder / task.file, chunk)
            out.append(chunk.done(task.source))
        return out

    def close(self):
        for actor in self.actors:
            self.ray.kill(actor)

    def _sure(self, what: Any) -> Any:
        try:
            return what()
        except self.ray.exceptions.RayTaskError as e:
            raise e.as_instanceof_cause() from None
        except (self.ray.exceptions.RayError, ConnectionError) as e:
            raise DataError(f"Ray does not answer ({type(e).__name__}); the same command goes on") from None


class Actor:
    """A worker of a Ray cluster."""

    def __init__(self, kept: Sequence[Any]):
        import ray

        self.worker: Worker = ray.get(kept[0])
        for reader in self.worker.readers:
            # What was fetched for another machine is not on this one.
            local(reader.source.path)
        chunks.alone()

    def made(self, task: Task) -> Chunk:
        return self.worker.made(task)

"""One model, one thread, one batch: the thread loads the model and generates, and calls of many clients join its batch.

The loop of mlx-lm's ``BatchGenerator``, with what that leaves to its caller: who comes next, who has left, which
beginnings of prompts are known, and how long one call's prompt may hold up the tokens of the others.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, StopSequences
from mlx_lm.models.cache import LRUPromptCache, make_prompt_cache

from workers.engines.mlx_form import Form

#: One step of reading prompts takes about this long, whatever the machine: so long do the others' next tokens wait.
PREFILL_S = 0.4
PREFILL_TOKENS = (32, 2048)
#: What known beginnings of prompts may take.
CACHE_BYTES = 2**30
#: A system prompt shorter than this is read anew faster than it is found.
HEAD_TOKENS = 32

Logits = Callable[[mx.array], mx.array]


class Overloaded(Exception):
    """More calls wait than may."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One call in the batch. ``head`` is how many tokens of the prompt other calls are likely to begin with too.
    ``told`` is called on the batch's thread with each token and how the answer ended, "" while it goes on. ``cached``
    is how many of the prompt's tokens were known.
    """

    prompt: Sequence[int]
    max_tokens: int
    told: Callable[[int, str], None]
    head: int = 0
    temperature: float = 0.0
    seed: int | None = None
    form: Form | None = None
    priority: int = 0
    cached: int = 0
    dropped: bool = False


class Batch:
    """``load`` gives the model and the tokens that end an answer, and is called on the batch's own thread. At most
    ``slots`` calls run and ``waiting`` wait. ``after_turn`` is called when a turn of the loop has told its tokens. An
    error ends the thread: whoever owns the process decides what that means.
    """

    def __init__(
        self,
        load: Callable[[], tuple[Any, set[int]]],
        slots: int,
        waiting: int,
    ) -> None:
        self.slots, self.waiting = slots, waiting
        self.turned_at = time.monotonic()
        self.after_turn: Callable[[], object] = lambda: None
        self._load = load
        self._wake = threading.Condition()
        self._queue: list[tuple[int, int, Ticket]] = []
        self._order = itertools.count()
        self._left: list[Ticket] = []
        self._running: dict[int, Ticket] = {}
        self._unread: set[int] = set()  # those whose prompts are still being read
        self._ended = False
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)

    def start(self) -> None:
        """Comes back when the model is loaded."""
        self._thread.start()
        self._loaded.wait()

    def stop(self) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify()
        self._thread.join()

    def join(self, ticket: Ticket) -> None:
        """Raises Overloaded."""
        with self._wake:
            if len(self._queue) + len(self._running) >= self.slots + self.waiting:
                raise Overloaded(f"{len(self._running)} calls run and {len(self._queue)} wait")
            heapq.heappush(self._queue, (-ticket.priority, next(self._order), ticket))
            self._wake.notify()

    def leave(self, ticket: Ticket) -> None:
        """Nobody wants its answer any more; its slot is free after the turn that is under way."""
        with self._wake:
            ticket.dropped = True
            self._left.append(ticket)
            self._wake.notify()

    def stats(self) -> dict[str, Any]:
        with self._wake:
            return {
                "slots": self.slots,
                "running": len(self._running),
                "waiting": len(self._queue),
                "turned_s_ago": round(time.monotonic() - self.turned_at, 3),
            }

    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        model, ends = self._load()
        generator = BatchGenerator(
            model, completion_batch_size=self.slots, stream=mx.default_stream(mx.default_device())
        )
        known, pace = KnownPrompts(model), Pace()
        stops = StopSequences([(end,) for end in ends])
        self._loaded.set()
        while self._admit(generator, known, stops):
            generator.prefill_step_size = pace.step(min(len(self._unread), generator.prefill_batch_size))
            with generator.stats() as stats:
                read, written = generator.next()
            pace.measured(stats.prompt_tokens, stats.prompt_time)
            self._note_read(generator, known, read)
            for answer in written:
                self._tell(generator, known, answer)
            self.turned_at = time.monotonic()
            self.after_turn()
        mx.synchronize()
        mx.clear_streams()

    def _admit(self, generator: BatchGenerator, known: KnownPrompts, ends: StopSequences) -> bool:
        """Let go of who left and take in who waits. False at the end; sleeps while there is nothing to do."""
        with self._wake:
            while not (self._ended or self._queue or self._left or self._running):
                self.turned_at = time.monotonic()
                self._wake.wait(0.5)
            gone = {id(ticket) for ticket in self._left}
            self._left.clear()
            self._queue = [entry for entry in self._queue if not entry[2].dropped]
            heapq.heapify(self._queue)
            uids = [uid for uid, ticket in self._running.items() if id(ticket) in gone]
            for uid in uids:
                del self._running[uid]
            self._unread.difference_update(uids)
            free = self.slots - len(self._running)
            taken = [heapq.heappop(self._queue)[2] for _ in range(min(free, len(self._queue)))]
            if uids:
                generator.remove(uids)
            for ticket in taken:
                uid = _insert(generator, known, ticket, ends)
                self._running[uid] = ticket
                self._unread.add(uid)
            return not self._ended

    def _note_read(self, generator: BatchGenerator, known: KnownPrompts, read: Sequence[Any]) -> None:
        """What other calls may begin with too is known as soon as it is read."""
        self._unread.difference_update(one.uid for one in read if one.end_of_prompt)
        ends = [one.uid for one in read if one.end_of_segment and not one.end_of_prompt]
        heads = [uid for uid in ends if self._running[uid].head > self._running[uid].cached]
        for uid, (cache, tokens) in generator.extract_cache(heads).items():
            if len(tokens) == self._running[uid].head:
                known.keep(tokens, cache, "system")

    def _tell(self, generator: BatchGenerator, known: KnownPrompts, answer: Any) -> None:
        ticket = self._running[answer.uid]
        finish = answer.finish_reason or ""
        if ticket.form is not None and ticket.form.broken and not finish:
            generator.remove([answer.uid])
            finish = "length"
        elif finish:
            known.keep(answer.all_tokens, answer.prompt_cache, "assistant")
        if finish:
            with self._wake:
                del self._running[answer.uid]
        ticket.told(answer.token, finish)


def _insert(generator: BatchGenerator, known: KnownPrompts, ticket: Ticket, ends: StopSequences) -> int:
    cache, rest = known.find(ticket.prompt)
    ticket.cached = len(ticket.prompt) - len(rest)
    split = max(0, ticket.head - ticket.cached)
    (uid,) = generator.insert_segments(
        [[rest[:split], rest[split:]]],
        max_tokens=[ticket.max_tokens],
        caches=[cache],
        all_tokens=[list(ticket.prompt[: ticket.cached])],
        samplers=[sampler(ticket.temperature, ticket.seed)],
        logits_processors=[[ticket.form] if ticket.form is not None else []],
        stop_sequences=[ends],
    )
    return int(uid)


class KnownPrompts:
    """Beginnings of prompts that need not be read again, those used longest ago forgotten first."""

    def __init__(self, model: Any) -> None:
        caches = make_prompt_cache(model)
        if not all(hasattr(cache, "merge") for cache in caches):
            raise ValueError(f"a model whose {type(caches[0]).__name__} cannot be part of a batch")
        self._model = model
        self._kept = LRUPromptCache(max_size=64, max_bytes=CACHE_BYTES)

    def find(self, prompt: Sequence[int]) -> tuple[list[Any], list[int]]:
        """What is known of it, and the rest, which is at least its last token."""
        cache, rest = self._kept.fetch_nearest_cache(0, list(prompt))
        if cache is None or not rest:
            return make_prompt_cache(self._model), list(prompt)
        return cache, rest

    def keep(self, tokens: Sequence[int], cache: list[Any], kind: str) -> None:
        self._kept.insert_cache(0, list(tokens), cache, cache_type=kind)


@dataclass(slots=True)
class Pace:
    """How many tokens of each prompt to read in one step, by how fast the last steps read."""

    rate: float = 0.0

    def step(self, prompts: int) -> int:
        least, most = PREFILL_TOKENS
        wanted = int(self.rate * PREFILL_S / max(1, prompts)) if self.rate else 4 * least
        return max(least, min(most, wanted))

    def measured(self, tokens: int, seconds: float) -> None:
        if tokens and seconds:
            rate = tokens / seconds
            self.rate = rate if not self.rate else 0.5 * self.rate + 0.5 * rate


def sampler(temperature: float, seed: int | None) -> Logits | None:
    """None is the generator's own: the likeliest token. Calls that share a sampler are sampled in one go."""
    if temperature <= 0:
        return None
    return _shared(temperature) if seed is None else Seeded(temperature, seed)


@lru_cache(maxsize=64)
def _shared(temperature: float) -> Logits:
    return lambda logprobs: mx.random.categorical(logprobs * (1 / temperature))


class Seeded:
    """Draws of one call's own, whoever else is in the batch."""

    def __init__(self, temperature: float, seed: int) -> None:
        self._scale = 1 / temperature
        self._key = mx.random.key(seed % 2**64)

    def __call__(self, logprobs: mx.array) -> mx.array:
        self._key, key = mx.random.split(self._key)
        return mx.random.categorical(logprobs * self._scale, key=key)

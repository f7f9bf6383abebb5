"""The KV blocks of one replica: how many are in use, and which cached ones can be found again.

Blocks are counted, not numbered. A block whose content is known by hash can be shared; once
nobody uses it, it stays findable until a new block is needed and it is the longest unused one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """``capacity`` blocks. ``used`` are those that cannot be given away."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._references: dict[int, int] = {}
        self._evictable: OrderedDict[int, None] = OrderedDict()

    @property
    def spare(self) -> int:
        """Blocks that can be given out, cached ones that nobody uses included."""
        return self.capacity - self.used

    def take(self, count: int) -> None:
        """Use ``count`` more blocks, at most ``spare``; the longest unused cached ones give way.

        vLLM may evict a cached block while a never-filled one is left; the difference lasts only
        until the cache has been full once.
        """
        self.used += count
        while self.used + len(self._evictable) > self.capacity:
            self._evictable.popitem(last=False)

    def forget_unused(self) -> None:
        """Evict every cached block that nobody uses."""
        self._evictable.clear()

    def cached(self, hashes: Sequence[int]) -> int:
        """How many of the first ``hashes`` are cached, up to the first that is not."""
        for index, block in enumerate(hashes):
            if block not in self._references and block not in self._evictable:
                return index
        return len(hashes)

    def unused(self, hashes: Sequence[int]) -> int:
        """How many of these cached blocks nobody uses: sharing them costs spare blocks."""
        return sum(1 for block in hashes if block in self._evictable)

    def share(self, hashes: Sequence[int]) -> None:
        """Use cached blocks once more."""
        for block in hashes:
            if block in self._evictable:
                del self._evictable[block]
                self._references[block] = 0
                self.used += 1
            self._references[block] += 1

    def publish(self, hashes: Sequence[int]) -> list[int]:
        """Make blocks in use findable; those that another already published stay private."""
        fresh = [b for b in hashes if b not in self._references and b not in self._evictable]
        for block in fresh:
            self._references[block] = 1
        return fresh

    def release(self, private: int, held: Sequence[int]) -> None:
        """Give back ``private`` blocks and one use of each block in ``held``.

        The end of a prompt is evicted before its start, which more prompts share.
        """
        self.used -= private
        for block in reversed(held):
            self._references[block] -= 1
            if self._references[block] == 0:
                del self._references[block]
                self.used -= 1
                self._evictable[block] = None

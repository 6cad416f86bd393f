"""Which group is forgotten when there is no more room: the one resolved longest ago; where none is, an unresolved one.

Of those it is the one unseen for longest among the groups of the agent that has the most. So an agent whose errors all differ
pushes out its own, and not the one that somebody else has to know of. Every answer costs the same, however many there are.
"""

from __future__ import annotations

from collections import OrderedDict

Names = OrderedDict[str, None]


class Forgetting:
    """The order in which groups go; a group belongs to the agent that told of it first."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}
        self._resolved: Names = OrderedDict()
        self._unresolved: dict[str, Names] = {}
        self._by_size: dict[int, Names] = {}
        self._largest = 0
        self._last = ""

    def __len__(self) -> int:
        return len(self._owner)

    def seen(self, group_id: str, owner: str) -> None:
        """The group is unresolved, and was seen just now."""
        if self._owner.setdefault(group_id, owner) != owner:
            raise ValueError(f"{group_id} belongs to {self._owner[group_id]}, and not to {owner}")
        self._last = group_id
        self._resolved.pop(group_id, None)
        groups = self._unresolved.setdefault(owner, OrderedDict())
        size = len(groups)
        groups[group_id] = None
        groups.move_to_end(group_id)
        self._resize(owner, size, len(groups))

    def resolved(self, group_id: str) -> None:
        """The group, known, was resolved just now."""
        self._unlist(group_id)
        self._resolved[group_id] = None

    def drop(self, group_id: str) -> None:
        """The group is gone."""
        self._unlist(group_id)
        self._resolved.pop(group_id, None)
        del self._owner[group_id]

    def next(self) -> str:
        """The group that goes first; there must be one. It is the one seen last only where there is no other."""
        if self._resolved:
            return next(iter(self._resolved))
        owners = iter(self._by_size[self._largest])
        group_id = next(iter(self._unresolved[next(owners)]))
        if group_id == self._last:
            group_id = next((next(iter(self._unresolved[owner])) for owner in owners), group_id)
        return group_id

    def _unlist(self, group_id: str) -> None:
        owner = self._owner[group_id]
        groups = self._unresolved.get(owner)
        if groups is None or group_id not in groups:
            return
        size = len(groups)
        del groups[group_id]
        if not groups:
            del self._unresolved[owner]
        self._resize(owner, size, len(groups))

    def _resize(self, owner: str, before: int, after: int) -> None:
        """The owner is the last of those with as many groups: the others go before it."""
        if before:
            same = self._by_size[before]
            del same[owner]
            if not same:
                del self._by_size[before]
        if after:
            self._by_size.setdefault(after, OrderedDict())[owner] = None
        self._largest = max(self._largest, after)
        while self._largest and self._largest not in self._by_size:
            self._largest -= 1

"""The threading algorithms as RFC 5256 §3 tells them, step by step, on objects; slow and easy to believe."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Ids: TypeAlias = "Mapping[int, tuple[str, Sequence[str]]]"
"""By UID: message id, or nothing, and references."""


class Node:
    """A message, or the dummy of one that is not here (*uid* is 0)."""

    def __init__(self, uid: int = 0) -> None:
        self.uid = uid
        self.parent: Node | None = None
        self.children: list[Node] = []

    def adopt(self, child: Node) -> None:
        """Make a node a child of this one, and nobody else's."""
        child.leave()
        child.parent = self
        self.children.append(child)

    def leave(self) -> None:
        """Have no parent."""
        if self.parent is not None:
            self.parent.children.remove(self)
            self.parent = None

    def is_above(self, other: Node | None) -> bool:
        """The other one is this, or below it."""
        while other is not None and other is not self:
            other = other.parent
        return other is self

    @property
    def speaker(self) -> Node:
        """The message that stands for this thread: itself, or the first child of a dummy."""
        return self if self.uid else self.children[0]


def pack(ids: Ids) -> dict[int, bytes]:
    """Texts of 'references' for `message_texts()`."""
    return {uid: f"{own}\n{' '.join(references)}".encode() for uid, (own, references) in ids.items()}


def linked(ids: Ids) -> list[Node]:
    """Steps 1 to 3: what is under the root, dummies pruned."""
    known: dict[str, Node] = {}
    nodes: list[Node] = []

    def called(name: str) -> Node:
        if name not in known:
            known[name] = Node()
            nodes.append(known[name])
        return known[name]

    for uid in sorted(ids):
        own, references = ids[uid]
        message = called(own) if own else Node()
        if message.uid or not own:
            message = Node()
            nodes.append(message)
        message.uid = uid
        chain = [called(name) for name in references]
        for parent, child in pairwise(chain):
            if child.parent is None and not child.is_above(parent):
                parent.adopt(child)
        message.leave()
        if chain and not message.is_above(chain[-1]):
            chain[-1].adopt(message)
    return pruned([node for node in nodes if node.parent is None])


def pruned(roots: list[Node]) -> list[Node]:
    """Step 3."""
    found = []
    for root in roots:
        prune_below(root)
        if root.uid or len(root.children) > 1:
            found.append(root)
        elif root.children:
            (child,) = root.children
            child.leave()
            found.append(child)
    return found


def prune_below(node: Node) -> None:
    """Promote the children of dummies that are not under the root."""
    for child in list(node.children):
        prune_below(child)
        if not child.uid:
            for grandchild in list(child.children):
                node.adopt(grandchild)
            child.leave()


def arrange(nodes: list[Node], key: Callable[[int], tuple[int, int]]) -> None:
    """Sort siblings, the youngest sets first."""
    for node in nodes:
        arrange(node.children, key)
    nodes.sort(key=lambda node: key(node.speaker.uid))


def by_date(dates: Mapping[int, int]) -> Callable[[int], tuple[int, int]]:
    """Sent date, then the place in the mailbox."""
    return lambda uid: (dates[uid], uid)


def gathered(roots: list[Node], subjects: Mapping[int, int], replies: frozenset[int]) -> list[Node]:
    """Step 5; a subject of 0 is empty."""
    table: dict[int, Node] = {}
    for node in roots:
        subject = subjects[node.speaker.uid]
        if not subject:
            continue
        there = table.setdefault(subject, node)
        if there.uid and (not node.uid or (there.uid in replies and node.uid not in replies)):
            table[subject] = node
    under_root = list(roots)
    subject_of = {id(node): subjects[node.speaker.uid] for node in roots}
    for node in roots:
        subject = subject_of[id(node)]
        there = table.get(subject, node) if subject else node
        if there is node:
            continue
        under_root.remove(node)
        if not there.uid and not node.uid:
            for child in list(node.children):
                there.adopt(child)
        elif not there.uid or (node.uid in replies and there.uid not in replies):
            there.adopt(node)
        else:
            dummy = Node()
            under_root[under_root.index(there)] = dummy
            dummy.adopt(there)
            dummy.adopt(node)
            table[subject] = dummy
    return under_root


def text(nodes: list[Node], numbers: Mapping[int, int]) -> str:
    """The THREAD response without its name."""
    return "".join(f"({inside(node, numbers)})" for node in nodes)


def inside(node: Node, numbers: Mapping[int, int]) -> str:
    """One thread without its parentheses."""
    own = [str(numbers[node.uid])] if node.uid else []
    if len(node.children) == 1 and node.uid:
        return f"{own[0]} {inside(node.children[0], numbers)}"
    return " ".join([*own, *([text(node.children, numbers)] if node.children else [])])


def references(
    ids: Ids,
    dates: Mapping[int, int],
    subjects: Mapping[int, int],
    replies: frozenset[int],
    numbers: Mapping[int, int],
) -> str:
    """THREAD=REFERENCES."""
    roots = linked(ids)
    arrange(roots, by_date(dates))
    roots = gathered(roots, subjects, replies)
    arrange(roots, by_date(dates))
    return text(roots, numbers)


def refs(ids: Ids, dates: Mapping[int, int], arrived: Mapping[int, int], numbers: Mapping[int, int]) -> str:
    """THREAD=REFS."""
    roots = linked(ids)
    arrange(roots, by_date(dates))

    def latest(node: Node) -> tuple[int, int]:
        own = [(arrived[node.uid], node.uid)] if node.uid else []
        return max(own + [latest(child) for child in node.children])

    roots.sort(key=latest)
    return text(roots, numbers)


def ordered_subject(dates: Mapping[int, int], subjects: Mapping[int, int], numbers: Mapping[int, int]) -> str:
    """THREAD=ORDEREDSUBJECT."""
    threads: dict[int, Node] = {}
    for uid in sorted(dates, key=by_date(dates)):
        if subjects[uid] in threads:
            threads[subjects[uid]].adopt(Node(uid))
        else:
            threads[subjects[uid]] = Node(uid)
    return text(list(threads.values()), numbers)

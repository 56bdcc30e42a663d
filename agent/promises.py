"""What this host promised to the controllers: the highest term. And what it shall be (HostDesired). On disk first."""

from __future__ import annotations

from agent.core import Context
from agent.guards import TermFacts, require, term_not_lower
from agent.journal import Journal
from agent.protocol import HostDesired


class Promises:
    """Section `host` of the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.term: int = (journal.get("host", "term") or {"term": 0})["term"]
        desired = journal.get("host", "desired")
        self.desired = HostDesired.model_validate(desired) if desired is not None else None

    def promise(self, context: Context, term: int) -> None:
        """Accept a request of this term: a lower one than promised is refused, a higher one is promised on disk."""
        require((term_not_lower,), TermFacts(promised=self.term, requested=term))
        if term > self.term:
            self._journal.put("host", "term", {"term": term})
            self.term = term
            context.observer.put_host(term=term, desired=self.desired)
            context.log(term=term).info("term promised")

    def desire(self, context: Context, desired: HostDesired) -> None:
        """The host's own settings; on disk when this returns."""
        self._journal.put("host", "desired", desired.model_dump(mode="json"))
        self.desired = desired
        context.observer.put_host(term=self.term, desired=desired)

"""A minimum cut: which vertices are on which of two sides, so that what lies between them costs least.

Each pair (start, end) has a cost, which is paid where `start` is on the side of SOURCE and `end` on that of
SINK. The algorithm is Boykov and Kolmogorov's (An experimental comparison of min-cut/max-flow algorithms,
2004), by networkx.

    network = Network()
    network.add(SOURCE, a, 5)    # that `a` is on the side of SINK costs 5
    network.add(a, b, 2)         # that only `a` is on the side of SOURCE costs 2
    network.add(b, SINK, 9)      # that `b` is on the side of SOURCE costs 9
    network.side_of_source()     # {SOURCE, a}: it costs 2
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx

SOURCE, SINK = "source", "sink"


class Network:
    """What a minimum cut divides.

    Several vertices may share a thing that is paid for once, however many of them need it. Then it has a
    vertex of its own, `("end", thing)` or `("start", thing)`.
    """

    def __init__(self) -> None:
        self.costs: dict[tuple[Hashable, Hashable], float] = {}

    def add(self, start: Hashable, end: Hashable, cost: float = math.inf) -> None:
        """Add to what it costs that `start` is on the side of SOURCE and `end` on that of SINK."""
        if (start, end) != (SOURCE, SINK):  # that is paid in any case
            self.costs[start, end] = self.costs.get((start, end), 0.0) + cost

    def add_if_any_end(
        self, start: Hashable, ends: Sequence[Hashable], thing: Hashable, cost: float
    ) -> None:
        """Add what it costs, once, that `start` is with SOURCE and any of `ends` with SINK.

        These share a thing.
        """
        if len(ends) == 1:
            self.add(start, ends[0], cost)
            return
        shared = ("end", thing)
        self.add(start, shared, cost)
        for end in ends:  # with one of them the thing is there
            self.add(shared, end)

    def add_if_any_start(
        self, starts: Sequence[Hashable], end: Hashable, thing: Hashable, cost: float
    ) -> None:
        """Add what it costs, once, that any of `starts` is with SOURCE and `end` with SINK.

        These share a thing.
        """
        if len(starts) == 1:
            self.add(starts[0], end, cost)
            return
        shared = ("start", thing)
        self.add(shared, end, cost)
        for start in starts:  # with one of them the thing is there
            self.add(start, shared)

    def side_of_source(self) -> set[Hashable]:
        """The vertices on the side of SOURCE in a minimum cut, as many as may be."""
        # the import takes 0.1 s, and most programs have nothing to move
        from networkx.algorithms.flow import boykov_kolmogorov

        flow = self._residual()
        boykov_kolmogorov(flow, SOURCE, SINK, residual=flow)
        # the algorithm ends with two trees: what the source leads to, and what leads to the sink
        _, with_sink = flow.graph["trees"]
        return {vertex for vertex in flow if vertex not in with_sink}

    def _residual(self) -> nx.DiGraph[Hashable]:
        """The network in the form in which networkx computes flows: for each edge there is one back."""
        import networkx as nx

        finite = [cost for cost in self.costs.values() if cost < math.inf]
        most = 3 * sum(finite) or 1  # stands for infinity: no cut costs as much
        there = [
            (start, end, {"capacity": min(cost, most)})
            for (start, end), cost in self.costs.items()
        ]
        back = [(b, a) for a, b in self.costs if (b, a) not in self.costs]
        flow = nx.DiGraph(inf=most)
        flow.add_nodes_from((SOURCE, SINK))
        flow.add_edges_from(there)
        flow.add_edges_from(back, capacity=0)
        return flow

"""The mathematics of selection on arrays: information states, conflict, greedy loops, certificates.

An information state yields the marginal gain of every row given the picks so far and absorbs a pick; conflict is a
second, smaller state; a room says what may still be picked; `search` makes the picks. Arrays in, arrays out: nothing
here knows a model or a store.
"""

from spicerack.information.certificate import Allowance, Certificate, PrefixBounds, certify, total_curvature
from spicerack.information.conflict import Conflict, Penalty
from spicerack.information.decomposition import TRACE_DTYPE, trace_table
from spicerack.information.deferred import deferred_greedy
from spicerack.information.diagonal import AdaFisherCode, DiagonalFisher
from spicerack.information.greedy import GreedyResult, final_scores, greedy, greedy_truth
from spicerack.information.lazy import lazy_greedy
from spicerack.information.logdet import FullFisher
from spicerack.information.matrix import RowMatrix
from spicerack.information.moments import second_moment
from spicerack.information.posterior import certify_transductive
from spicerack.information.room import Quotas, Room
from spicerack.information.search import search
from spicerack.information.state import InformationState
from spicerack.information.transductive import Transductive

__all__ = [
    "TRACE_DTYPE",
    "AdaFisherCode",
    "Allowance",
    "Certificate",
    "Conflict",
    "DiagonalFisher",
    "FullFisher",
    "GreedyResult",
    "InformationState",
    "Penalty",
    "PrefixBounds",
    "Quotas",
    "Room",
    "RowMatrix",
    "Transductive",
    "certify",
    "certify_transductive",
    "deferred_greedy",
    "final_scores",
    "greedy",
    "greedy_truth",
    "lazy_greedy",
    "search",
    "second_moment",
    "total_curvature",
    "trace_table",
]

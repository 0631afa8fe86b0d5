"""Few candidates for nearest neighbours, by matrix products whose rounding is bounded.

A product in low precision leaves those pairs which, by a bound of its rounding, may be the
nearest; distances in float64 decide between them (`geomatch.search`, `geomatch.matching`). So
results are those of a search through all distances in float64, whatever the blocks, the threads
and the processor.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomatch.distances import doubled, euclidean

CHUNK_BYTES = 16 * 2**20
"""Size of one block of float32 scores."""
STRIPS = 16
"""Scores are searched in groups of so many, of which the maxima come first."""
BFLOAT16_WIDTH = 512
"""From so many dimensions on a product in bfloat16 saves more than its candidates cost (measured)."""


class Candidates(NamedTuple):
    """Pairs of rows of a and b, among which those sought are."""

    first: Tensor
    """(M,) int64, rows of a."""
    second: Tensor
    """(M,) int64, rows of b."""
    upper: Tensor
    """(M,) float64, at least the score, which is minus half the squared distance."""


class Block(NamedTuple):
    """What one block of rows of a contributes."""

    rows: Candidates
    """Ordered by row of a; complete for these rows."""
    columns: Candidates | None
    """For the nearest row of a of each row of b: they lie in this block or in another's."""
    low: Tensor
    """(N1,) float64, a lower bound of the best score of each row of b up to this block."""


def search_blocks(
    a: Tensor,
    b: Tensor,
    *,
    unit: bool = False,
    count: int = 0,
    radius: float | None = None,
    columns: bool = False,
    mask: NDArray[np.bool_] | None = None,
) -> Iterator[Block]:
    """Candidates for the ``count`` nearest rows of b, or all within ``radius``, by blocks of rows of a.

    Args:
        a: (N0, D) float32.
        b: (N1, D) float32.
        unit: distances between the rows' directions; no row may be zero.
        count: at most N1.
        radius: takes the place of ``count``.
        columns: also candidates for the nearest row of a of each row of b.
        mask: (N0, N1), True where a pair is allowed.
    """
    if len(a) == 0 or len(b) == 0:
        return
    frame = _frame(a, b, unit)
    limit = None if radius is None else radius * frame.scale
    low = torch.full((len(b),), -math.inf, dtype=torch.float64, device="cpu")
    size = max(1, CHUNK_BYTES // (4 * max(len(b), a.shape[1])))
    precisions = [torch.float32]
    if _native_bfloat16() and a.shape[1] >= BFLOAT16_WIDTH:
        precisions.insert(0, torch.bfloat16)
    tables: dict[torch.dtype, _Table] = {}
    for start in range(0, len(a), size):
        part = a[start : start + size]
        allowed = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask[start : start + size]))
        found = None
        for precision in tuple(precisions):
            if precision not in tables:
                tables[precision] = _table(b, frame, precision, "train")
            scores = _scores(_table(part, frame, precision, "query"), tables[precision], allowed)
            found = _select(scores, count, limit, low if columns else None)
            if found is not None:
                break
            if precision == torch.bfloat16:  # what is too coarse for one block is so for the next
                precisions.remove(precision)
                del tables[precision]
        if found is None:
            found = _by_all_distances(part, b, frame, count, radius, low if columns else None, allowed)
        rows, best, low = found
        rows = rows._replace(first=rows.first + start)
        yield Block(rows, best and best._replace(first=best.first + start), low)


def _native_bfloat16() -> bool:
    """Whether products in bfloat16 are faster than those in float32 here."""
    return torch.backends.mkldnn.is_available() and bool(  # type: ignore[no-untyped-call]
        getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )


class _Frame(NamedTuple):
    """Where rows are put before the product: near the origin, so that their rounding is small."""

    unit: bool
    scale: float
    """A power of two."""
    wide: bool
    """Whether float32 could overflow or vanish on the way."""
    centre: Tensor
    """(D,) float32."""


def _frame(a: Tensor, b: Tensor, unit: bool) -> _Frame:
    norms = torch.cat([a.norm(dim=1), b.norm(dim=1)])
    wide = not bool((norms < 2.0**20).all() and ((norms.min() if unit else norms.max()) > 2.0**-20))
    scale = 1.0
    if wide and not unit:
        largest = max(float(a.abs().max()), float(b.abs().max()))
        scale = 2.0 ** -math.frexp(largest)[1]
    frame = _Frame(unit, scale, wide, torch.zeros(a.shape[1], dtype=torch.float32, device="cpu"))
    return frame._replace(centre=_placed(b[:: max(1, len(b) // 256)], frame).mean(0))


def _placed(rows: Tensor, frame: _Frame) -> Tensor:
    if frame.wide:
        rows = rows.double()
    if frame.unit:
        rows = rows / rows.norm(dim=1, keepdim=True)
    elif frame.scale != 1:
        rows = rows * frame.scale
    return (rows - frame.centre).float()


class _Table(NamedTuple):
    """Rows as factors of a product which gives x·y - |x|²/2 - |y|²/2, and how far they are off."""

    factors: Tensor
    """(N rounded up to `STRIPS`, W): the row, then its square in pieces and ones for the other's."""
    norms: Tensor
    """(N,) float64, of the rows before they were rounded to the table."""
    rounded: Tensor
    """(N,) float64, how far that rounding moved them."""
    placed: Tensor
    """(N,) float64, how far the rounding before moved them."""


def _table(rows: Tensor, frame: _Frame, precision: torch.dtype, side: str) -> _Table:
    count, width = rows.shape
    pieces = 1 if precision == torch.float32 else 3  # bfloat16 holds 8 bits, float32 24
    factors = torch.zeros(
        -(-count // STRIPS) * STRIPS, -(-(width + 2 * pieces) // 8) * 8, dtype=precision, device="cpu"
    )
    norms, rounded = torch.zeros(2, count, dtype=torch.float64, device="cpu")
    size = max(1, CHUNK_BYTES // (4 * max(1, width)))
    for start in range(0, count, size):
        stop = min(start + size, count)
        x = _placed(rows[start:stop], frame)
        norms[start:stop] = x.norm(dim=1)
        factors[start:stop, :width] = x
        if precision != torch.float32:
            rounded[start:stop] = x.sub_(factors[start:stop, :width]).norm(dim=1)
    own, other = (width, width + pieces) if side == "query" else (width + pieces, width)
    factors[:, other : other + pieces] = 1
    left = -norms.square() / 2
    for piece in range(pieces):
        factors[:count, own + piece] = left
        left = left - factors[:count, own + piece].double()
    factors[count:, own] = -math.inf  # what only fills up is nearest to nothing
    relative = 2.0**-23 * (norms + (width / 4 + 4 if frame.unit else 0))
    tiny = 2.0**-60  # squares below this squared may have vanished from the norms
    return _Table(factors, norms + tiny, rounded + tiny * bool(precision != torch.float32), relative)


class _Scores(NamedTuple):
    """Minus half the squared distances, about.

    The true value is within slack + relative * abs(value), with the slack of the row or of the column.
    """

    values: Tensor
    """(N0, N1), minus infinity where not allowed; both rounded up to `STRIPS`."""
    row_slack: Tensor
    """(N0,) float64."""
    column_slack: Tensor
    """(N1,) float64."""
    relative: float


def _scores(query: _Table, train: _Table, allowed: Tensor | None) -> _Scores:
    with torch.autocast("cpu", enabled=False):  # which would round more than the slack knows
        values = torch.mm(query.factors, train.factors.T)
    if allowed is not None:
        values[: allowed.shape[0], : allowed.shape[1]].masked_fill_(~allowed, -math.inf)
    width = query.factors.shape[1]
    relative = 2.0**-8 if values.dtype == torch.bfloat16 else 2.0**-22
    return _Scores(values, _slack(query, train, width), _slack(train, query, width), relative)


def _slack(own: _Table, other: _Table, width: int) -> Tensor:
    """What each row's scores may be off by beside any row of the other, by Cauchy and Schwarz.

    The sum in float32 of n products is off by n * 2^-24 of the sum of their sizes, and so is a
    square in it; 2^-23 allows for both.
    """
    n, r, e = own.norms, own.rounded, own.placed
    N, R, E = other.norms.max(), other.rounded.max(), other.placed.max()
    summed = width * 2.0**-23 + (0 if _float32_is_whole() else 2.0**-7)
    sizes = (n + r) * (N + R) + (n.square() + N.square()) / 2
    slack = r * N + (n + r) * R + (e + E) * (n + N + e + E) + summed * sizes
    return slack * (1.01 + width * 2.0**-22) + 2.0**-80


def _float32_is_whole() -> bool:
    """Whether nobody has asked torch for products of float32 in less."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set by newer means, which this question does not know
        return False


_Found = tuple[Candidates, Candidates | None, Tensor]


def _select(scores: _Scores, count: int, radius: float | None, low: Tensor | None) -> _Found | None:
    """Candidates of one block by its scores; None where these are too coarse to leave few."""
    values, row_slack, column_slack, relative = scores
    rows, columns = len(row_slack), len(column_slack)
    share = 200 if values.dtype == torch.bfloat16 else 8  # about where the next means are quicker
    groups = _strips(values[:rows]).amax(1)
    if radius is not None:
        share = 2
        bound = torch.full((rows,), -(radius * radius) / 2 * (1 + 1e-9), dtype=torch.float64, device="cpu")
    else:
        bound = _lower_bound(values[:rows], groups, row_slack, relative, count)
    limit = rows * (count + 8 + columns // share)
    found = _reaching(values[:rows], groups, bound, row_slack, relative, limit)
    if found is None or low is None:
        return found and (found, None, bound)
    across = values[:, :columns].T
    # the groups of `_strips(across)`, reduced in the order of memory, ten times as fast
    groups = values.view(STRIPS, -1, values.shape[1]).amax(0)[:, :columns].T.contiguous()
    low = torch.maximum(low, _lower_bound(across, groups, column_slack, relative, 1))
    best = _reaching(across, groups, low, column_slack, relative, columns * (9 + rows // share))
    return best and (found, Candidates(best.second, best.first, best.upper), low)


def _lower_bound(values: Tensor, groups: Tensor, slack: Tensor, relative: float, count: int) -> Tensor:
    """(N,) float64, at most the true ``count``-th largest of each row."""
    if count == 1:
        top = groups.amax(1)
    else:  # the count-th largest of the groups' maxima is at most that of all
        top = (groups if 2 * count <= groups.shape[1] else values).topk(count, dim=1).values[:, -1]
    top = top.double()
    return top - slack - relative * top.abs()


def _reaching(
    values: Tensor, groups: Tensor, bound: Tensor, slack: Tensor, relative: float, limit: int
) -> Candidates | None:
    """The cells whose true value may be the bound of their row or more, by row; None beyond the limit."""
    # the squares of the relative errors are covered by `relative`, twice what bfloat16 rounds a result by
    enough = bound - slack
    enough -= (relative + 2.0**-22) * enough.abs()  # which makes up for rounding it to float32
    enough = enough.float().clamp_(min=torch.finfo(torch.float32).min)[:, None]  # minus infinity never counts
    row, group = (groups >= enough).nonzero(as_tuple=True)
    if len(row) > limit:
        return None
    cells = _strips(values)[row, :, group].float()
    hit, strip = (cells >= enough[row]).nonzero(as_tuple=True)
    if len(hit) > limit:
        return None
    row, value = row[hit], cells[hit, strip].double()
    upper = value + slack[row] + relative * value.abs()
    return Candidates(row, strip * groups.shape[1] + group[hit], upper)


def _strips(values: Tensor) -> Tensor:
    """(N, `STRIPS`, L): a group is a column of it, which makes maxima quick."""
    return values.view(len(values), STRIPS, -1)


def _by_all_distances(
    part: Tensor,
    b: Tensor,
    frame: _Frame,
    count: int,
    radius: float | None,
    low: Tensor | None,
    allowed: Tensor | None,
) -> _Found:
    """The same by the distances themselves, for data that are too close to each other."""
    x = doubled(part, frame.unit)
    distances = torch.empty(len(part), len(b), dtype=torch.float64, device="cpu")
    size = max(1, CHUNK_BYTES // (8 * max(1, b.shape[1])))
    for start in range(0, len(b), size):
        distances[:, start : start + size] = euclidean(x, doubled(b[start : start + size], frame.unit))
    if allowed is not None:
        distances.masked_fill_(~allowed, math.inf)
    array = distances.numpy()
    if radius is not None:
        first, second = np.nonzero((array <= radius) & (array < math.inf))
    else:
        order = array.argmin(1)[:, None] if count == 1 else array.argsort(1, kind="stable")[:, :count]
        first, rank = np.nonzero(np.take_along_axis(array, order, 1) < math.inf)
        second = order[first, rank]
    scores = -((distances * frame.scale).square_()) / 2
    margin = 1e-12  # of float64, and more

    def chosen(first: NDArray[np.int64], second: NDArray[np.int64]) -> Candidates:
        i, j = torch.from_numpy(first), torch.from_numpy(second)
        return Candidates(i, j, scores[i, j] * (1 - margin))

    if low is None:
        return chosen(first, second), None, scores[:, 0]
    nearest = array.argmin(0)
    best = chosen(nearest, np.arange(len(b)))
    low = torch.maximum(low, scores[best.first, best.second] * (1 + margin))
    return chosen(first, second), best, low

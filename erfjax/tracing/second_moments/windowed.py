"""How a band of covariances passes fixed windows: pools, blurs, resizes, with or without nonlinearities on the way.

Channels are separate, and position q of the end needs the positions p of the start that lie in its window. Then JᵀKJ is a band
like K. It is computed in one of two ways, the cheaper one:

* *by taps*: positions q whose windows do not overlap are pulled back at once. That gives J as one array J_t(p, c) for each of
  the T classes of them (four for a 3 x 3 pool of stride 2), t(p) being the position of class t that needs p, and

      (JᵀKJ)(p, p') = Σ_tt' K(t(p), t'(p')) times the mean over c of J_t(p, c) J_t'(p', c);

* *by products*: JᵀKJv for vectors v of ones at positions p so far apart that no entry of the band belongs to two of them. A
  product is a forward derivative, a sum over the lags of K, and a pullback.

Source: the second is how A. Curtis, M. Powell, J. Reid, "On the Estimation of Sparse Jacobian Matrices", IMA Journal of Applied
Mathematics 13, 1974, find a sparse matrix.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from erfjax.tracing.program.equations import Atom, Var
from erfjax.tracing.second_moments.covariances import Band, inside
from erfjax.tracing.second_moments.lag_plan import Plan
from erfjax.tracing.second_moments.passages import Frame, frame
from erfjax.tracing.second_moments.pullbacks import at_once, price, run, sender, summed
from erfjax.tracing.second_moments.reaches import Windows
from erfjax.tracing.second_moments.segments import Partition, Segment


@dataclasses.dataclass(frozen=True, eq=False)
class Crossing:
    """A way through windows, and how covariances are held at its end and at its start."""

    parts: Partition
    segment: Segment
    start: Var
    seen: Windows
    there: Band
    here: Band

    @property
    def end(self) -> Frame:
        return frame(self.parts, self.segment.end)

    @property
    def into(self) -> Frame:
        return frame(self.parts, self.start)

    @property
    def by_taps(self) -> tuple[float, float]:
        """About how many operations the first way takes, and how many entries it holds."""
        taps, entries = math.prod(self.seen.overlaps), math.prod(self.into.shape)
        return taps * price(self.segment) + 2.0 * taps**2 * len(self.here.rows) * entries, 1.0 * taps * entries

    @property
    def by_products(self) -> tuple[float, float]:
        """The same of the second way."""
        count = 1.0 + self.seen.classes(self.there.lags, self.here.lags).max(initial=0)
        each = 2 * price(self.segment) + 4.0 * len(self.there.rows) * math.prod(self.end.shape)
        return count * each, count * self.into.positions

    @property
    def price(self) -> tuple[float, float]:
        """About how many operations it takes, and how many entries it holds."""
        return min(self.by_taps, self.by_products)

    def band(self, covariance: Any, values: Mapping[Atom, Any]) -> Any:
        """The covariance at the start from that at the end, the mean over channels."""
        here, count = self.here, self.into.channels
        if self.price == self.by_taps:
            taps = self._taps(covariance.dtype, values)

            def at(lag: Any) -> Any:
                lag = jnp.zeros(len(here.sizes), int) if lag is None else lag

                def add(total: Any, pair: Any) -> tuple[Any, None]:
                    both = jnp.sum(taps[pair[0]] * here.ahead(taps[pair[1]], lag), axis=1)
                    return total + self._between(covariance, pair, lag) * both / count, None

                return summed(add, jnp.zeros(here.positions, covariance.dtype), self._pairs)

            return here.within(here.each(at))
        classes, product = self._products(covariance, values)
        rows = lax.map(
            lambda c: jnp.mean(product(classes == c), axis=1),
            jnp.arange(1 + classes.max(initial=0)),
            batch_size=at_once(self.segment, 1 + classes.max(initial=0)),
        )
        return here.within(rows[classes[inside(here.sizes, here.rows)[0]], np.arange(here.positions)])

    def squares(self, covariance: Any, values: Mapping[Atom, Any]) -> Any:
        """E g² at the start, entry by entry: (positions, channels); the start is held as its diagonal."""
        nothing = jnp.zeros((self.into.positions, self.into.channels), covariance.dtype)
        if self.price == self.by_taps:
            taps, still = self._taps(covariance.dtype, values), jnp.zeros(len(self.here.sizes), int)

            def add(total: Any, pair: Any) -> tuple[Any, None]:
                return total + self._between(covariance, pair, still)[:, None] * taps[pair[0]] * taps[pair[1]], None

            return summed(add, nothing, self._pairs)
        classes, product = self._products(covariance, values)

        def one(total: Any, c: Any) -> tuple[Any, None]:
            chosen = jnp.asarray(classes == c)
            return total + jnp.where(chosen[:, None], product(chosen), 0), None

        return lax.scan(one, nothing, jnp.arange(1 + classes.max(initial=0)))[0]

    def _taps(self, dtype: Any, values: Mapping[Atom, Any]) -> Any:
        """J, one class of positions of the end after the other: (classes, positions, channels)."""
        classes, sent = self.seen.apart(), sender(self.parts, self.segment, [self.start], values)
        count = math.prod(self.seen.overlaps)
        if count == 1:
            return sent(jnp.ones((), dtype))[0][None]
        return lax.map(
            lambda t: sent((jnp.asarray(classes) == t).astype(dtype)[:, None])[0],
            jnp.arange(count),
            batch_size=at_once(self.segment, count),
        )

    @property
    def _pairs(self) -> Any:
        """The pairs of two classes."""
        count = math.prod(self.seen.overlaps)
        return jnp.asarray(np.indices((count, count)).reshape(2, -1).T)

    def _between(self, covariance: Any, pair: Any, lag: Any) -> Any:
        """K(t(p), t'(p + lag)) for every position p, zero where there is no such position."""
        places = jnp.asarray(np.indices(self.here.sizes).reshape(len(self.here.sizes), -1))
        return self.there.between(
            covariance, self._needing(pair[0], places), self._needing(pair[1], places + lag[:, None])
        )

    def _needing(self, t: Any, places: Any) -> Any:
        """The position of class t of the end that needs each position of the start, axis by axis; negative if there is none."""
        found = [jnp.zeros(places.shape[1], int)] * len(self.end.sizes)
        tables, overlaps = self.seen.needing, self.seen.overlaps
        for axis, table, count, at, n in reversed(
            [*zip(self.seen.axes, tables, overlaps, places, self.here.sizes, strict=True)]
        ):
            row = jnp.asarray(table)[t % count][jnp.clip(at, 0, n - 1)]
            t = t // count
            row = jnp.where((at >= 0) & (at < n), row, -1)
            if axis is not None:
                found[axis[0]] = row
        return jnp.stack(found) if found else jnp.zeros((0, places.shape[1]), int)

    def _products(self, covariance: Any, values: Mapping[Atom, Any]) -> tuple[np.ndarray, Callable[[Any], Any]]:
        """The class of every position of the start, and JᵀKJv for a vector v over them: (positions, channels)."""
        end, into = self.end, self.into
        value, push = jax.linearize(
            lambda array: run(self.parts, self.segment, [self.start], [array], values), values[self.start]
        )
        sent = sender(self.parts, self.segment, [self.start], values)

        def product(chosen: Any) -> Any:
            whole = jnp.broadcast_to(jnp.asarray(chosen)[:, None], (into.positions, into.channels))
            arrived = end.split(push(into.join(whole).astype(value.dtype)))
            return sent(self.there.times(covariance, arrived.astype(covariance.dtype)))[0]

        return self.seen.classes(self.there.lags, self.here.lags), product


def crossing(parts: Partition, plan: Plan, segment: Segment, start: Var) -> Crossing | None:
    """The way from the end of a segment to a start, if it leads through windows and bands are held at both."""
    seen, there, here = plan.windows.get((segment.end, start)), plan.layouts[segment.end], plan.layouts[start]
    if seen is None or not isinstance(there, Band) or not isinstance(here, Band):
        return None
    return Crossing(parts, segment, start, seen, there, here)

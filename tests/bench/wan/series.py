"""Arithmetic on what the receivers counted: bytes per 10 ms, and latency histograms."""

from __future__ import annotations

from dataclasses import dataclass

FULL_SHARE = 0.9  # "full rate": this share of the rate before
WINDOW_NS = 100_000_000
SUSTAIN_NS = 1_000_000_000


@dataclass(frozen=True)
class Series:
    """Payload bytes delivered to the application, per bin of the monotonic clock."""

    base_ns: int
    bin_ns: int
    bins: list[int]

    def bytes_between(self, start_ns: int, end_ns: int) -> float:
        """A bin that lies partly inside counts in proportion."""
        first = (start_ns - self.base_ns) // self.bin_ns
        last = (end_ns - 1 - self.base_ns) // self.bin_ns
        total = 0.0
        for index in range(max(first, 0), min(last + 1, len(self.bins))):
            begin = self.base_ns + index * self.bin_ns
            inside = min(end_ns, begin + self.bin_ns) - max(start_ns, begin)
            total += self.bins[index] * inside / self.bin_ns
        return total

    def rate_mbit(self, start_ns: int, end_ns: int) -> float:
        return self.bytes_between(start_ns, end_ns) * 8e3 / (end_ns - start_ns)

    def rates_mbit(self, from_ns: int, window_ns: int) -> list[float]:
        """One after the other, up to the last byte."""
        end_ns = self.base_ns + len(self.bins) * self.bin_ns
        starts = range(from_ns, end_ns, window_ns)
        return [round(self.rate_mbit(at_ns, at_ns + window_ns), 1) for at_ns in starts]

    def steady_mbit(self, from_ns: int, to_ns: int, window_ns: int) -> float:
        """Mean over all windows of that length between the two. Bytes are counted when they can be
        delivered in order, so what a loss holds back crosses a window's edge: with one window that
        alone is worth some percent at long round trips."""
        starts = range(from_ns, to_ns - window_ns + 1, self.bin_ns)
        return sum(self.rate_mbit(at_ns, at_ns + window_ns) for at_ns in starts) / len(starts)

    def recovered_ns(self, from_ns: int, until_ns: int, rate_mbit: float) -> int | None:
        """The first moment at or after `from_ns` from which the rate is full: at least 90 % of
        `rate_mbit` over the 100 ms that follow and over the second that follows, so that a burst
        of what had waited does not count as recovery. None when not before `until_ns`."""
        wanted = FULL_SHARE * rate_mbit
        for at_ns in range(from_ns, until_ns - SUSTAIN_NS + 1, self.bin_ns):
            if (
                self.rate_mbit(at_ns, at_ns + WINDOW_NS) >= wanted
                and self.rate_mbit(at_ns, at_ns + SUSTAIN_NS) >= wanted
            ):
                return at_ns
        return None

    def yielded_ns(self, from_ns: int, until_ns: int, rate_mbit: float) -> int | None:
        """The first moment from which half a second carries at most `rate_mbit`."""
        window = SUSTAIN_NS // 2
        for at_ns in range(from_ns, until_ns - window + 1, self.bin_ns):
            if self.rate_mbit(at_ns, at_ns + window) <= rate_mbit:
                return at_ns
        return None


Histogram = list[tuple[int, int]]  # upper edge in microseconds, count; ascending


def percentile_ms(histogram: Histogram, offered: int, share: float) -> float | None:
    """The latency within which `share` of all offered messages arrived; None when fewer did.
    A message that never arrived is later than all."""
    wanted, seen = share * offered, 0
    for edge_us, count in histogram:
        seen += count
        if seen >= wanted and offered > 0:
            return edge_us / 1000
    return None


def share_within(histogram: Histogram, offered: int, limit_ms: float) -> float:
    if offered == 0:
        return 0.0
    return sum(count for edge_us, count in histogram if edge_us <= limit_ms * 1000) / offered

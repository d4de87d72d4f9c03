"""What was sent again after a kill, from what a gateway says about itself.

A seal of a VM tells when its recovery point was taken and how many bytes of pages were sent until
then. Between two seals with nothing killed lies an undisturbed round; its bytes are what the guest
rightly costs in that time. After a kill everything sent since the last seal before it counts, whether
it arrived or not, minus the dearest undisturbed round, stretched to the time between the two points:

    resent = (sent from the last seal to the kill) + (sent from the kill to the next seal)
             - max over rounds of bytes * max(1, time between the points / time of the round)
             - what was sent from the last seal to the kill, at most one round: it may not have arrived
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One VM's status at one moment."""

    at_s: float
    active: bool
    epoch: int  # sealed
    point_s: float  # when that point was taken; same clock as at_s
    sent: int  # bytes of pages since the daemon began


@dataclass(frozen=True)
class Round:
    """Undisturbed, from point to point."""

    took_s: float
    sent: int


@dataclass(frozen=True)
class Again:
    """The outcome of one kill for one VM."""

    sent: int
    allowed: int
    took_s: float  # from the restart to the first new seal

    @property
    def resent(self) -> int:
        return max(0, self.sent - self.allowed)


@dataclass
class Ledger:
    """One VM. Fed with samples in order; `killed` in between."""

    rounds: list[Round] = field(default_factory=list)
    last: Sample | None = None  # newest
    staged: int = 0  # sent until the first seal
    _seal: Sample | None = None  # the first sample that showed the newest seal
    _before: Sample | None = None  # the last seal before the kill
    _carried: int = 0  # sent from that seal to the kill
    _base: int = 0  # counter at the kill, as the daemon that runs on or the new one counts
    _began_s: float = 0.0
    _resumed: int = 0  # epoch when it was active again; 0 = not yet
    again: Again | None = None  # of the newest kill, once it is sealed again

    def add(self, now: Sample) -> None:
        self.last = now
        if self._before is not None:
            self._after_kill(now)
        elif self._seal is None:
            if now.active and now.epoch > 0:
                self._seal = now
                self.staged = now.sent
        elif now.active and now.epoch > self._seal.epoch:
            took_s = now.point_s - self._seal.point_s
            if took_s > 0:
                self.rounds.append(Round(took_s, now.sent - self._seal.sent))
            self._seal = now

    @property
    def sealed(self) -> bool:
        return self._seal is not None

    def allowed(self, took_s: float) -> int:
        """What a round over that time may send."""
        return int(max((r.sent * max(1.0, took_s / r.took_s) for r in self.rounds), default=0))

    def killed(self, counter_restarts: bool) -> None:
        assert self._seal is not None and self.last is not None
        self._before = self._seal
        self._carried = self.last.sent - self._seal.sent
        self._base = 0 if counter_restarts else self.last.sent
        self._resumed = 0
        self.again = None

    def restarted(self, at_s: float) -> None:
        self._began_s = at_s

    def _after_kill(self, now: Sample) -> None:
        assert self._before is not None
        if not now.active or now.at_s < self._began_s:
            return
        if self._resumed == 0:
            self._resumed = max(now.epoch, self._before.epoch)
        elif now.epoch > self._resumed:
            sent = self._carried + now.sent - self._base
            allowed = self.allowed(now.point_s - self._before.point_s)
            allowed += min(self._carried, self.allowed(0.0))
            self.again = Again(sent, allowed, now.at_s - self._began_s)
            self._before, self._seal = None, now


def share(resent: int, staged: int) -> float:
    """In percent."""
    return 100.0 * resent / staged if staged > 0 else 100.0

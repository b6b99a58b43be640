"""A/B arms: which version answers which user, by a hash: the same after every restart."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from serving.client.errors import InvalidArgument


@dataclass(frozen=True)
class Arms:
    """Label -> share of the users. The first label is the control, and answers whatever has no user.

    A user's place depends on `salt` and the id alone: a new salt draws afresh for a new experiment, and
    widening the last arm moves users only into it.
    """

    shares: Mapping[str, float]
    salt: str = ""

    def __post_init__(self) -> None:
        if not self.shares or any(not share >= 0 for share in self.shares.values()):
            raise InvalidArgument(
                "arms", f"must give every label a share of at least 0, got {dict(self.shares)}"
            )
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise InvalidArgument("arms", f"must have shares that sum to 1, got {dict(self.shares)}")

    @property
    def control(self) -> str:
        """The label of calls that no user makes."""
        return next(iter(self.shares))

    def of(self, user_id: str) -> str:
        """The label that answers this user."""
        digest = blake2b(f"{self.salt}\0{user_id}".encode(errors="surrogatepass"), digest_size=8).digest()
        place, edge = int.from_bytes(digest) / 2**64, 0.0
        for label, share in self.shares.items():
            edge += share
            if place < edge:
                return label
        return next(label for label in reversed(list(self.shares)) if self.shares[label] > 0)

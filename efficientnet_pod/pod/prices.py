"""Prices of chips by region and size, with their source and the day on which they were read."""

from dataclasses import dataclass
from datetime import date

from efficientnet_pod.pod.chips import Chip

STALE_DAYS = 90  # spot prices of TPUs change up to once a month


@dataclass(frozen=True)
class Price:
    """An amount in US dollars, from the cheapest region to the dearest.

    Attributes:
      least: amount in the cheapest region.
      most: amount in the dearest region; the same where the region is given.
      cheapest: name of the cheapest region; empty: the region is given, or makes no difference.
    """

    least: float
    most: float
    cheapest: str = ""

    def times(self, factor: float) -> "Price":
        """Returns the price of so many chips, hours or both."""
        return Price(self.least * factor, self.most * factor, self.cheapest)

    def __str__(self) -> str:
        """Returns e.g. ``"$0.42"``, ``"$1,234"`` or ``"$61.44 to $79.41"``."""
        least, most = _dollars(self.least), _dollars(self.most)
        return least if least == most else f"{least} to {most}"


@dataclass(frozen=True)
class _List:
    """A price list: its source, and the day on which it was read."""

    source: str
    read: date

    def __str__(self) -> str:
        return f"{self.source}, read on {self.read}"


# The catalog has one row for each size and zone; these are its rows divided by their chips. Its 700.0 stands
# for a price that is not known. The day of the commit itself is not known.
_GCP = _List("SkyPilot catalog v8, gcp/vms.csv, commit 006059e", date(2026, 11, 29))
_LAMBDA = _List(
    "Lambda's list price: SkyPilot catalog v8, lambda/vms.csv, commit 0f40703", date(2026, 11, 24)
)

# Dollars of a chip-hour: on demand, on spot (None: not known), by region.
_TPUS: dict[str, dict[str, tuple[float, float | None]]] = {
    "v2": {"europe-west4": (1.5, 0.3825), "us-central1": (1.5, 0.3825)},
    "v3": {"europe-west4": (2.0, 0.66), "us-east1": (2.0, 0.6)},
    "v4": {"us-central2": (3.22, 0.9215)},
    "v5e": {
        "asia-east1": (1.38948, 0.55579), "asia-northeast1": (1.54104, 0.4244),
        "asia-southeast1": (1.56, 0.78), "europe-north1": (1.32132, 0.66066),
        "europe-west1": (1.32132, 0.52853), "europe-west3": (1.416, 0.38997), "europe-west4": (1.56, 0.44498),
        "northamerica-northeast1": (1.32132, 0.36389), "southamerica-west1": (1.716, 0.47259),
        "us-central1": (1.2, 0.24493), "us-east1": (1.2, 0.24493), "us-east4": (1.2, 0.6),
        "us-east5": (1.2, 0.6), "us-south1": (1.416, 0.5664), "us-west1": (1.2, 0.24493),
        "us-west4": (1.2, 0.48),
    },
    "v5p": {
        "europe-west1": (4.45946, 1.78378), "europe-west4": (4.2525, 1.34849), "us-central1": (4.2, 0.8357),
        "us-east1": (4.2, 0.8357), "us-east5": (4.2, 1.68), "us-south1": (4.779, 1.31614),
    },
    "v6e": {
        "asia-northeast1": (3.24, 0.94352), "asia-south1": (3.24, 2.27), "asia-southeast1": (2.97, 0.36292),
        "europe-west4": (2.97, 1.03748), "southamerica-west1": (2.7, None), "us-central1": (2.7, 0.54421),
        "us-east1": (2.7, 0.54421), "us-east4": (2.7, 0.57766), "us-east5": (2.7, 1.215),
        "us-south1": (2.7, 1.35), "us-west1": (2.7, 0.54421),
    },
}  # fmt: skip
# The same for slices of one host, v2-8 and v3-8, which have prices of their own.
_ONE_HOST: dict[str, dict[str, tuple[float, float | None]]] = {
    "v2": {"asia-east1": (1.305, 0.3915), "europe-west4": (1.2375, 0.31556), "us-central1": (1.125, 0.3375)},
    "v3": {"europe-west4": (2.2, 0.561), "us-central1": (2.0, 0.51), "us-east1": (2.0, None)},
}
_GPUS = {"v100": 0.79, "a100": 1.99, "h100": 3.99}  # a GPU-hour on demand, the same everywhere
_NO_PRICE = {"tpu7x": "none published", "h200": "none found", "rtx3090": "none: a card to own"}


def price_of(chip: Chip, chips: float, *, spot: bool = False, zone: str = "") -> Price | None:
    """Returns the price of an hour of one chip in a machine of so many; None: none is known.

    Args:
      chip: kind of the chips.
      chips: chips of the machine: slices of one host may have prices of their own.
      spot: whether the machine may be taken away.
      zone: zone or region of Google Cloud; empty for the range over all regions.
    """
    if chip.platform == "gpu":
        usd = None if spot else _GPUS.get(chip.name)
        return None if usd is None else Price(usd, usd)
    prices = {name: usd for name, pair in _rows(chip, chips).items() if (usd := pair[spot]) is not None}
    if zone:
        usd = prices.get(_region(zone))
        return None if usd is None else Price(usd, usd)
    if not prices:
        return None
    least, most = min(prices.values()), max(prices.values())
    return Price(least, most, min(prices, key=prices.__getitem__) if least < most else "")


def why_no_price(chip: Chip, chips: float, *, spot: bool = False, zone: str = "") -> str:
    """Returns why `price_of` has no price of a machine, with the regions that have one."""
    regions = ", ".join(sorted(name for name, pair in _rows(chip, chips).items() if pair[spot] is not None))
    if zone and regions:
        kind = "spot price" if spot else "price"
        return f"no {kind} of {chip.title} is known in {_region(zone)}, only in {regions}"
    return f"no price is known ({_NO_PRICE.get(chip.name, 'not in the price list')})"


def price_source(chip: Chip) -> str:
    """Returns the source of a chip's price, with the day on which it was read."""
    prices = _list(chip)
    return str(prices) if prices else _NO_PRICE.get(chip.name, "")


def age_note(chip: Chip) -> str:
    """Returns a warning if a chip's price was read more than `STALE_DAYS` days ago; else an empty text."""
    prices = _list(chip)
    if prices is None or (today() - prices.read).days <= STALE_DAYS:
        return ""
    return f"the price was read on {prices.read}, more than {STALE_DAYS} days ago: look up today's"


def today() -> date:
    """Returns the day of today."""
    return date.today()


def _list(chip: Chip) -> _List | None:
    if chip.name in _TPUS:
        return _GCP
    return _LAMBDA if chip.name in _GPUS else None


def _rows(chip: Chip, chips: float) -> dict[str, tuple[float, float | None]]:
    pods = _TPUS.get(chip.name, {})
    return _ONE_HOST.get(chip.name, pods) if chips <= chip.chips_per_host else pods


def _region(zone: str) -> str:
    """Returns the region of a zone, such as ``us-east5`` of ``us-east5-b``, or the region itself."""
    return zone.rpartition("-")[0] if zone.count("-") > 1 else zone


def _dollars(usd: float) -> str:
    return f"${usd:,.2f}" if usd < 100 else f"${usd:,.0f}"

"""Prices against whole rows of the catalog, which are those of a slice, and the warning of their age."""

from datetime import timedelta

import pytest

from efficientnet_pod.pod import prices
from efficientnet_pod.pod.chips import CHIPS
from efficientnet_pod.pod.prices import Price, age_note, price_of, price_source, why_no_price

# SkyPilot's catalog v8 at commit 006059e: a slice, its chips, a zone, its price on demand and on spot.
ROWS = """
v2-8 4 us-central1-b 4.5 1.35
v2-8 4 europe-west4-a 4.95 1.26225
v2-512 256 us-central1-a 384.0 97.92
v3-8 4 us-central1-a 8.0 2.04
v3-8 4 europe-west4-a 8.8 2.244
v3-8 4 us-east1-d 8.0 -
v3-32 16 europe-west4-a 32.0 10.56
v3-1024 512 europe-west4-a 1024.0 337.92
v3-1024 512 us-east1-d 1024.0 307.2
v4-512 256 us-central2-b 824.32 235.904
v5e-1 1 us-west1-c 1.2 0.24493
v5e-8 8 asia-southeast1-b 12.48 6.24
v5e-16 16 europe-west3-c 22.656 6.23946
v5e-256 256 us-central1-a 307.2 62.70106
v5e-256 256 us-south1-b 362.496 144.9984
v5e-256 256 southamerica-west1-b 439.296 120.98202
v5e-256 256 asia-east1-c 355.70688 142.28275
v5e-128 128 northamerica-northeast1-b 169.12896 46.57818
v5p-8 4 us-south1-c 19.116 5.26455
v5p-512 256 us-central1-a 1075.2 213.93946
v5p-512 256 us-east5-b 1075.2 430.08
v5p-512 256 europe-west1-b 1141.62048 456.64819
v5p-512 256 europe-west4-b 1088.64 345.21344
v6e-1 1 asia-northeast1-b 3.24 0.94352
v6e-64 64 us-east5-b 172.8 77.76
v6e-64 64 us-central1-b 172.8 34.82931
v6e-256 256 asia-southeast1-b 760.32 92.90854
v6e-256 256 asia-south1-b 829.44 581.12
v6e-256 256 us-south1-ai1b 691.2 345.6
v6e-256 256 southamerica-west1-a 691.2 -
""".strip().split("\n")


@pytest.mark.parametrize("row", ROWS)
def test_a_slice_costs_what_its_row_of_the_catalog_says(row):
    name, chips, zone, *dollars = row.split()
    chip, chips = CHIPS[name.partition("-")[0]], int(chips)
    for spot, usd in enumerate(dollars):
        price = price_of(chip, chips, spot=bool(spot), zone=zone)
        if usd == "-":
            assert price is None
        else:
            assert price.least == price.most
            assert price.times(chips).least == pytest.approx(float(usd), rel=2e-5)


def test_without_a_zone_there_is_a_range_and_the_cheapest_region():
    spot = price_of(CHIPS["v3"], 512, spot=True).times(512)
    assert str(spot) == "$307 to $338" and spot.cheapest == "us-east1"
    assert str(price_of(CHIPS["v3"], 512).times(512)) == "$1,024"
    v6e = price_of(CHIPS["v6e"], 64, spot=True)
    assert str(v6e) == "$0.36 to $2.27" and v6e.cheapest == "asia-southeast1"
    assert price_of(CHIPS["v4"], 8, spot=True).cheapest == ""  # one region
    assert str(price_of(CHIPS["h100"], 8)) == "$3.99" and price_of(CHIPS["h100"], 8, spot=True) is None


def test_regions_are_taken_as_they_are():
    by_region, by_zone = (
        price_of(CHIPS["v6e"], 64, spot=True, zone=f"us-east5{zone}") for zone in ("", "-b")
    )
    assert by_region == by_zone == Price(1.215, 1.215)


@pytest.mark.parametrize(
    "name, spot, zone, says",
    [
        ("v6e", False, "us-esat5-b", "no price of TPU v6e is known in us-esat5, only in asia-northeast1, "),
        ("v3", True, "us-central1-a", "no spot price of TPU v3 is known in us-central1, only in europe-west"),
        ("tpu7x", False, "us-central1-c", "no price is known (none published)"),
        ("rtx3090", False, "", "no price is known (none: a card to own)"),
        ("cpu", False, "", "no price is known (not in the price list)"),
    ],
)  # fmt: skip
def test_what_is_not_known_says_where_it_is(name, spot, zone, says):
    assert price_of(CHIPS[name], 64, spot=spot, zone=zone) is None
    assert why_no_price(CHIPS[name], 64, spot=spot, zone=zone).startswith(says)


def test_every_chip_with_a_price_names_its_source_and_day():
    for chip in CHIPS.values():
        if price_of(chip, 64):
            assert "commit" in price_source(chip) and "read on 2026-" in price_source(chip)
        else:
            assert "read on" not in price_source(chip) and age_note(chip) == ""


def test_a_price_older_than_ninety_days_says_so_with_its_day(monkeypatch):
    read = prices.today()  # which tests/conftest.py sets to the day of the price list
    assert age_note(CHIPS["v6e"]) == "" and f"{read}" in price_source(CHIPS["v6e"])
    monkeypatch.setattr(prices, "today", lambda: read + timedelta(days=90))
    assert age_note(CHIPS["v6e"]) == ""
    monkeypatch.setattr(prices, "today", lambda: read + timedelta(days=91))
    assert age_note(CHIPS["v6e"]) == (f"the price was read on {read}, more than 90 days ago: look up today's")

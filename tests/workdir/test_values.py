"""Values of JSON tables, whatever wrote or damaged them."""

from efficientnet_pod.workdir.values import dig, flatten, list_of, number, table_of, time_of, to_json, whole


def test_a_value_of_another_type_is_none():
    hostile = (None, True, "1", [1], {}, float("nan"), float("inf"), 10**400)
    assert [number(value) for value in hostile] == [None] * 8 and number(3) == 3.0
    assert [whole(value) for value in (3, 3.0, 3.5, -1, True)] == [3, 3, None, None, None]
    assert table_of([1]) == {} and list_of({"a": 1}) == [] and list_of([1]) == [1]


def test_times_are_in_utc():
    assert time_of("2026-11-25T01:02:03.4Z") == time_of("2026-11-25T02:02:03.4+01:00")
    assert [time_of(value) for value in (None, 3, "yesterday")] == [None] * 3


def test_dotted_fields_of_nested_tables():
    table = {"a": {"b": {"c": 1}}, "d": 2}
    assert dig(table, "a.b.c") == 1 and dig(table, "d.e") is None and dig(None, "a") is None
    assert list(flatten(table)) == [("a.b.c", 1), ("d", 2)]


def test_json_has_null_for_what_is_not_finite():
    table = {"loss": float("nan"), "rates": [1.5, -float("inf"), (2, float("inf"))], "name": "Bär", "n": 3}
    written = to_json(table, ensure_ascii=False)
    assert written == '{"loss": null, "rates": [1.5, null, [2, null]], "name": "Bär", "n": 3}'
    assert to_json({"a": [1.5, None]}, indent=None) == '{"a": [1.5, null]}'

"""Names of classes: one name in two spellings, and lists that cannot be used."""

import pytest

from efficientnet_pod.data.class_names import fault_of, names_in, pair_of, spelling_of

NFC, NFD = "caf\xe9", "cafe\u0301"


def test_two_spellings_are_one_name_and_case_counts():
    assert spelling_of(NFC) == spelling_of(NFD) and NFC != NFD
    assert len({spelling_of(name) for name in ("Straße", "strasse", "STRASSE", "straße")}) == 4


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("a", "A", "Straße", "strasse", "0", "d\n", " e"), None),
        ((), None),
        (("a", "b", "a"), "classes 0 and 2, 'a' and 'a', have the same name"),
        ((NFC, NFD), r"classes 0 and 1, 'caf\xe9' and 'cafe\u0301', have one name in two spellings"),
        (("a", " \t"), r"class 1 has the name ' \t', which shows nothing"),
        (("caf\udce9",), r"the name of class 0, 'caf\udce9', is not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_list_is_said(names, fault):
    found = fault_of(names)
    assert found is None if fault is None else found is not None and fault in found


def test_names_that_look_alike_are_shown_apart():
    assert pair_of(NFC, NFD) == (r"'caf\xe9'", r"'cafe\u0301'")
    assert pair_of(NFC, "tea") == ("'café'", "'tea'")


@pytest.mark.parametrize(
    ("contents", "names"),
    [
        ("\ufeffcat\r\ndog\r\n".encode(), ("cat", "dog")),
        ("é\r\n猫".encode("utf-16"), ("é", "猫")),
        ("a\u2028b\x0bc\n\n  d \n".encode(), ("a\u2028b\x0bc", "d")),
        (b"", ()),
    ],
)
def test_files_of_one_name_a_line(contents, names):
    assert names_in(contents) == names

from __future__ import annotations

from patchbay.telemetry.metrics import BoundedLabel


def test_the_first_values_stand_for_themselves_and_later_ones_are_other() -> None:
    label = BoundedLabel(2)
    assert [label.label(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_a_value_longer_than_any_name_is_other() -> None:
    label = BoundedLabel(2)
    assert label.label("x" * 1000) == "other"
    assert label.label("a") == "a"

"""Which number holds for which class, and what is said about names that do not exist."""

import msgspec
import pytest

from streamcls.errors import ConfigError
from streamcls.postprocess.rules import resolve_rules
from streamcls.postprocess.settings import (
    ClassSettings,
    EventSettings,
    GroupSettings,
    NoiseFloorSettings,
    StreamEventSettings,
    settle_for_stream,
)

LABELS = ("dog", "cat", "rain", "_background_")
THRESHOLDS = {"dog": 0.7, "cat": 0.5}


def rules_by_label(settings: EventSettings) -> dict:
    rules = resolve_rules(settings, LABELS, THRESHOLDS, ("_background_",))
    return {one.label: one for one in rules}


def test_thresholds_come_from_the_model_unless_the_settings_say_otherwise():
    rules = rules_by_label(EventSettings())
    assert {k: r.onset_threshold for k, r in rules.items()} == {"dog": 0.7, "cat": 0.5, "rain": 0.6}
    assert rules["rain"].offset_threshold == pytest.approx(0.4)
    said = rules_by_label(EventSettings(onset_threshold=0.8, class_={"cat": ClassSettings(0.9)}))
    assert {k: r.onset_threshold for k, r in said.items()} == {"dog": 0.8, "cat": 0.9, "rain": 0.8}


def test_the_nearest_word_wins():
    settings = EventSettings(
        min_duration_ms=1,
        cooldown_s=1,
        smoothing_ms=1,
        class_={"dog": ClassSettings(min_duration_ms=3, cooldown_s=3)},
    )
    porch = StreamEventSettings(
        min_duration_ms=2,
        smoothing_ms=2,
        deny=("rain",),
        class_={"dog": ClassSettings(cooldown_s=4)},
    )
    rules = rules_by_label(settle_for_stream(settings, porch))
    assert rules["dog"].min_duration_ns == 3_000_000
    assert rules["dog"].cooldown_ns == 4_000_000_000
    assert rules["dog"].smoothing_ns == 2_000_000
    assert rules["cat"].min_duration_ns == 2_000_000
    assert [label for label, one in rules.items() if one.denied] == ["rain"]
    assert settings.class_["dog"].cooldown_s == 3


def test_a_group_stands_for_its_classes():
    pets = GroupSettings(labels=("dog", "cat"), cooldown_s=7)
    rules = rules_by_label(EventSettings(group={"pets": pets}))
    assert list(rules) == ["pets", "rain"]
    assert rules["pets"].members == (0, 1)
    assert rules["pets"].onset_threshold == 0.5
    assert rules["pets"].cooldown_ns == 7_000_000_000


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (EventSettings(deny=("dgo",)), ["events.deny: 'dgo'", "did you mean 'dog'?"]),
        (EventSettings(allow=("owl",)), ["events.allow: 'owl'", "there are: dog, cat"]),
        (EventSettings(class_={"cats": ClassSettings()}), ["events.class.cats", "mean 'cat'"]),
        (EventSettings(class_={"a b": ClassSettings()}), ['events.class."a b"', "no class"]),
        (EventSettings(group={"pets": GroupSettings()}), ["events.group.pets.labels: empty"]),
        (
            EventSettings(group={"rain": GroupSettings(labels=("dog",))}),
            ["events.group.rain", "rename"],
        ),
        (
            EventSettings(group={"my\u00a0pets": GroupSettings(labels=("dog",))}),
            ["'my\\xa0pets' has a sign that cannot be printed; rename the group"],
        ),
        (
            EventSettings(group={"pets": GroupSettings(labels=("dog", "wolf"))}),
            ["events.group.pets.labels: 'wolf'"],
        ),
        (
            EventSettings(
                class_={"dog": ClassSettings()}, group={"pets": GroupSettings(labels=("dog",))}
            ),
            ["events.class.dog", "part of a group"],
        ),
        (
            EventSettings(class_={"dog": ClassSettings(0.3, 0.5)}),
            ["events.class.dog", "offset_threshold = 0.5", "onset_threshold = 0.3"],
        ),
        (
            EventSettings(confirm_ms=500, confirm_window_ms=400),
            ["confirm_ms = 500", "confirm_window_ms = 400"],
        ),
        (
            EventSettings(noise_floor=NoiseFloorSettings(enabled=True, ceiling=0.65)),
            ["ceiling = 0.65", "onset_threshold = 0.7 of 'dog'"],
        ),
    ],
)
def test_mistakes_are_named_with_their_remedy(settings, expected):
    with pytest.raises(ConfigError) as caught:
        rules_by_label(settings)
    assert all(part in str(caught.value) for part in expected)


def test_all_mistakes_are_found_at_once():
    settings = EventSettings(deny=("x", "y"), confirm_ms=500, confirm_window_ms=400)
    with pytest.raises(ConfigError) as caught:
        rules_by_label(settings)
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (EventSettings(offset_threshold=0.8), "onset_threshold = 0.5 of 'cat', the lowest; a"),
        (EventSettings(0.5, 0.8), "events: offset_threshold = 0.8 is above onset_threshold = 0.5;"),
        (
            EventSettings(noise_floor=NoiseFloorSettings(enabled=True, ceiling=0.5)),
            "below onset_threshold = 0.7 of 'dog', the highest; raise",
        ),
        (
            EventSettings(0.6, noise_floor=NoiseFloorSettings(enabled=True, ceiling=0.5)),
            "below onset_threshold = 0.6; raise",
        ),
    ],
)
def test_a_mistake_in_what_holds_for_all_classes_is_said_once(settings, expected):
    with pytest.raises(ConfigError) as caught:
        rules_by_label(settings)
    (problem,) = caught.value.problems
    assert expected in problem


def test_the_dataclasses_read_what_a_toml_file_says():
    table = {
        "onset_threshold": 0.7,
        "deny": ["rain"],
        "noise_floor": {"enabled": True},
        "class_": {"dog": {"cooldown_s": 2}},
        "group": {"pets": {"labels": ["dog", "cat"], "min_gap_ms": 500}},
    }
    settings = msgspec.convert(table, EventSettings)
    assert settings.group["pets"] == GroupSettings(labels=("dog", "cat"), min_gap_ms=500)
    assert settings.class_["dog"].cooldown_s == 2
    for wrong in ({"onset_threshold": 0}, {"smoothing_ms": -1}, {"deny": [""]}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, EventSettings)
    assert set(msgspec.json.schema(EventSettings)["$defs"]) >= {"EventSettings", "GroupSettings"}
